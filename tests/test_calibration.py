"""Gram matrices of dumps: which tokens enter, which judge, and what is no Gram matrix."""

import ml_dtypes
import numpy as np
import pytest
from dump_samples import only

import wncore
from wncore.calibration import calibrate
from wncore.dumps import open_dump, write_dump
from wncore.errors import DumpError, InputError, NonFiniteError
from wncore.layers.activations import open_layer

D = 6


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    return wncore.get_backend(request.param)


def layer_of(tmp_path, tensors, **options):
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "a.safetensors"
    write_dump(path, {f"l.{name}" if "." not in name else name: value for name, value in tensors.items()}, **options)
    return only(open_dump(path))


def inputs(tokens=200, dtype=np.float64):
    return np.random.default_rng(0).standard_normal((tokens, D)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("memory", [2**20, 2**30])
def test_the_last_tenth_judges(tmp_path, backend, dtype, memory):
    x = inputs(50_000, dtype)
    found = calibrate(open_layer(layer_of(tmp_path, {"input": x}), backend, memory=memory))
    wide = x.astype(np.float64)
    assert (found.tokens, found.holdout_tokens) == (45_000, 5_000)
    tolerance = {"rtol": 1e-12} if dtype is np.float64 else {"rtol": 1e-5, "atol": 0.1}
    np.testing.assert_allclose(found.gram, wide[:45_000].T @ wide[:45_000], **tolerance)
    np.testing.assert_allclose(found.holdout, wide[45_000:].T @ wide[45_000:], **tolerance)


def test_padding_and_skipped_tokens_stay_out(tmp_path, backend):
    x = inputs(40)
    x[7] = np.nan
    mask = np.ones(40, np.uint8)
    mask[7] = 0
    layer = layer_of(tmp_path, {"input": x, "tokens.mask": mask}, sequence_length=10)
    found = calibrate(open_layer(layer, backend, holdout=0.25, skip_tokens=2))
    kept = x[(mask == 1) & (np.arange(40) % 10 >= 2)]
    assert (found.tokens, found.holdout_tokens) == (23, 8)
    np.testing.assert_allclose(found.gram + found.holdout, kept.T @ kept, rtol=1e-12)
    np.testing.assert_allclose(found.gram, kept[:23].T @ kept[:23], rtol=1e-12)


def test_no_holdout_uses_every_token(tmp_path, backend):
    x = inputs(30)
    found = calibrate(open_layer(layer_of(tmp_path, {"input": x}), backend, holdout=0))
    assert (found.tokens, found.holdout, found.holdout_tokens) == (30, None, 0)
    np.testing.assert_allclose(found.gram, x.T @ x, rtol=1e-12)


@pytest.mark.parametrize(
    ("length", "holdout", "seen"),
    [
        (10, 0.1, 90),  # the last of ten sequences
        (10, 0.16, 80),  # 84 asked for, 80 is nearer than 90
        (30, 0.1, 90),  # of 30, 30, 30 and 10
        (20, 0.1, 80),  # 80 and the end are as near: a whole sequence
        (60, 0.1, 90),  # the end is nearer than 60: no sequence is as small as what was asked for
        (100, 0.1, 90),  # there is only one
        (None, 0.25, 75),  # nobody knows of sequences
        (50, 0.0, 100),
    ],
)
def test_whole_sequences_are_held_out(tmp_path, backend, length, holdout, seen):
    x = inputs(100)
    layer = layer_of(tmp_path, {"input": x}, **({"sequence_length": length} if length else {}))
    found = calibrate(open_layer(layer, backend, holdout=holdout))
    assert (found.tokens, found.holdout_tokens) == (seen, 100 - seen)
    np.testing.assert_allclose(found.gram, x[:seen].T @ x[:seen], rtol=1e-12)


def test_a_channel_whose_squares_vanish_is_not_called_dead(tmp_path, backend):
    x = inputs(40)
    x[:, 3] = 0
    assert calibrate(open_layer(layer_of(tmp_path, {"input": x}), backend)).gram[3, 3] == 0
    x[17, 3] = 1e-200
    with pytest.raises(InputError, match="squares of its inputs vanish"):
        calibrate(open_layer(layer_of(tmp_path / "b", {"input": x}), backend))


def test_a_holdout_keeps_at_least_one_token(tmp_path, backend):
    assert calibrate(open_layer(layer_of(tmp_path, {"input": inputs(4)}), backend)).holdout_tokens == 1
    with pytest.raises(InputError, match=r"has 3 tokens; with --holdout 0\.9 fewer than 2 are left"):
        calibrate(open_layer(layer_of(tmp_path / "b", {"input": inputs(3)}), backend, holdout=0.9))


@pytest.mark.parametrize("holdout", [-0.1, 1.0, float("nan")])
def test_holdout_is_a_share(tmp_path, backend, holdout):
    with pytest.raises(InputError, match=r"lies in \[0, 1\)"):
        calibrate(open_layer(layer_of(tmp_path, {"input": inputs()}), backend, holdout=holdout))


def test_nan_in_the_input_is_named(tmp_path, backend):
    x = inputs()
    x[150, 2] = np.inf
    with pytest.raises(NonFiniteError, match=r"l\.input holds NaN or infinity: 1 of .* token 150, channel 2"):
        calibrate(open_layer(layer_of(tmp_path, {"input": x}), backend))


def test_squares_that_overflow_are_an_error(tmp_path, backend):
    with pytest.raises(NonFiniteError, match="the squares of its inputs overflow float64"):
        calibrate(open_layer(layer_of(tmp_path, {"input": inputs() * 1e200}), backend))


def test_rank_and_condition(tmp_path, backend):
    x = inputs()
    found = calibrate(open_layer(layer_of(tmp_path, {"input": x}), backend, holdout=0))
    unit = x / np.sqrt((x**2).sum(axis=0))
    assert found.rank == D
    assert found.condition(0.0) == pytest.approx(np.linalg.cond(unit) ** 2)
    assert found.condition(0.5) == pytest.approx(np.linalg.cond(unit.T @ unit + 0.5 * np.eye(D)))
    x[:, 3] = x[:, 1] - 2 * x[:, 2]
    x[:, 5] = 0
    found = calibrate(open_layer(layer_of(tmp_path / "b", {"input": x}), backend, holdout=0))
    assert found.rank == D - 2
    assert found.condition(0.0) > 1e12
    x = inputs(3)
    assert calibrate(open_layer(layer_of(tmp_path / "c", {"input": x}), backend, holdout=0)).rank == 3


def gram(dtype=np.float64):
    return (inputs().T @ inputs()).astype(dtype)


def test_a_stored_gram_matrix_stands_in_for_the_input(tmp_path, backend):
    found = calibrate(open_layer(layer_of(tmp_path, {"gram": gram()}, gram_tokens={"l": 200}), backend))
    assert (found.tokens, found.holdout, found.holdout_tokens) == (200, None, 0)
    np.testing.assert_allclose(found.gram, gram(), rtol=1e-14)
    assert calibrate(open_layer(layer_of(tmp_path / "b", {"gram": gram(ml_dtypes.bfloat16)}), backend)).tokens is None


def changed(i, j, value):
    h = gram()
    h[i, j] = value
    return h


@pytest.mark.parametrize(
    ("h", "error", "says"),
    [
        (changed(1, 2, np.nan), NonFiniteError, r"l\.gram holds NaN or infinity: 1 of its 36 values"),
        (changed(1, 2, 40.0), InputError, r"l\.gram is not symmetric: H\[1, 2\] = 40, H\[2, 1\] ="),
        (changed(3, 3, -2.0), InputError, r"l\.gram is no Gram matrix: H\[3, 3\] = -2 is negative"),
        (gram() + 1000 - np.diag(np.full(D, 1000.0)), InputError, r"l\.gram is no Gram matrix: H\["),
    ],
)
def test_what_is_no_gram_matrix_is_refused(tmp_path, backend, h, error, says):
    with pytest.raises(error, match=says):
        calibrate(open_layer(layer_of(tmp_path, {"gram": h}), backend))


def test_neither_input_nor_gram(tmp_path, backend):
    with pytest.raises(InputError, match="neither input nor gram"):
        calibrate(open_layer(layer_of(tmp_path, {"weight": np.ones((2, D))}), backend))


def test_a_gram_matrix_may_be_shared_like_an_input(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"up.gram": gram(), "up.weight": np.ones((2, D)), "gate.weight": np.ones((3, D))}
    write_dump(path, tensors, shared_inputs={"gate": "up"}, gram_tokens={"up": 200})
    gate = open_dump(path).layers["gate"]
    assert gate.prunable
    assert gate.gram_tokens == 200


@pytest.mark.parametrize("text", ['{"l": 0}', '{"l": -3}', '{"l": "many"}', '{"l": true}', "[1]", "{", '{"l": 1.5}'])
def test_bad_counts_of_gram_tokens_are_refused(tmp_path, text):
    from wncore.dumps.write import write_tensors

    path = tmp_path / "a.safetensors"
    write_tensors(path, {"l.gram": gram()}, {"wncore.schema": "1", "wncore.gram_tokens": text})
    with pytest.raises(DumpError, match=r"wncore\.gram_tokens"):
        open_dump(path)
