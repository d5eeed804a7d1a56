"""A neuron counts as constant by the rounding of the numbers that it reads, and of no others."""

import json
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import BACKENDS

from wncore.dumps import open_dump, write_dump
from wncore.experts.disentanglement import disentangle
from wncore.layers.activations import open_layer
from wncore.outputs import Outputs
from wncore.rounding import rounding_deviation
from wncore.scoring import distances, score_layer
from wncore.wasserstein import gaussian_distance

LOUD = 60_000.0
backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


@pytest.fixture
def layer_of(tmp_path):
    def write(tensors):
        path = tmp_path / "a.safetensors"
        write_dump(path, tensors, force=True)
        return open_dump(path).layers["l"]

    return write


@pytest.fixture
def tensors():
    """Inputs of 512 tokens and 256 channels, the eighth loud and almost constant; 16 neurons that do not read it."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((512, 256), dtype=np.float32), rng.standard_normal((16, 256), dtype=np.float32)
    x[:, 7], w[:, 7] = LOUD, 0
    return {"l.input": x, "l.weight": w}


def limits(layer, backend=BACKENDS[0], **options):
    return rounding_deviation(Outputs(open_layer(layer, backend, memory=2**28), **options))


@backends
@pytest.mark.parametrize("estimator", ["exact", "streaming", "sampled"])
def test_a_loud_channel_that_nobody_reads_makes_no_neuron_constant(backend, layer_of, tensors, estimator):
    x = tensors["l.input"]
    x[:, 7] = 1e9
    score = score_layer(open_layer(layer_of(tensors), backend), estimator=estimator, pairs=100)
    assert not score.constant.any()
    true = gaussian_distance(x.astype(float) @ tensors["l.weight"].T.astype(float))
    assert (score.wasserstein_low <= true + 1e-5).all()
    assert (score.wasserstein_high >= true - 1e-5).all()


@backends
def test_neither_do_two_loud_channels_that_cancel(backend, layer_of, tensors):
    x, w = tensors["l.input"], tensors["l.weight"]
    x[:, 8], w[:, 7:9] = LOUD, [0.5, -0.5]
    layer = layer_of(tensors)
    assert not score_layer(open_layer(layer, backend), pairs=0).constant.any()
    assert (limits(layer) > 1e-2 * np.sqrt(256) * 2.0**-24 * LOUD).all()  # they are read, and do count


@backends
def test_neither_does_a_large_bias_that_is_added_once(backend, layer_of, tensors):
    bias = np.full(16, 3e5, np.float32)
    score = score_layer(open_layer(layer_of(tensors | {"l.bias": bias}), backend), pairs=0)
    assert not score.constant.any()
    np.testing.assert_allclose(score.std, 16, rtol=0.2)


@backends
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_neuron_of_equal_inputs_is_flagged(backend, layer_of, tensors, dtype):
    x = np.repeat(tensors["l.input"][:1], 513, axis=0)
    x[:, 7] = np.arange(513)  # varies, and is not read
    bias = 100 * np.random.default_rng(1).standard_normal(16)
    same = {"l.input": x.astype(dtype), "l.weight": tensors["l.weight"].astype(dtype), "l.bias": bias.astype(dtype)}
    layer = layer_of(same)
    assert score_layer(open_layer(layer, backend), pairs=0).constant.all()
    assert np.isnan(distances(Outputs(open_layer(layer, backend, memory=2**28)))).all()


def test_float64_tells_what_float32_cannot(layer_of):
    x = np.ones((300, 2))
    x[:, 1] = np.random.default_rng(0).standard_normal(300)
    w = np.array([[1.0, 1e-9]])
    narrow = {"l.input": x.astype(np.float32), "l.weight": w.astype(np.float32)}
    assert score_layer(open_layer(layer_of(narrow), BACKENDS[0]), pairs=0).constant.all()
    assert not score_layer(open_layer(layer_of({"l.input": x, "l.weight": w}), BACKENDS[0]), pairs=0).constant.any()


@given(st.data())
def test_the_limit_is_the_budget_of_a_sum_worked_out_exactly(tmp_path_factory, data):
    n, d, m = (data.draw(st.integers(low, 5), label=name) for name, low in (("n", 2), ("d", 1), ("m", 1)))
    small = st.integers(-8, 8)
    x, w, b = (
        np.array(data.draw(st.lists(small, min_size=count, max_size=count), label=name), np.float32)
        for name, count in (("x", n * d), ("w", m * d), ("b", m))
    )
    path = tmp_path_factory.mktemp("dump") / "a.safetensors"
    write_dump(path, {"l.input": x.reshape(n, d), "l.weight": w.reshape(m, d), "l.bias": b})
    found = limits(open_dump(path).layers["l"])
    for i in range(m):
        row = [abs(Fraction(float(v))) for v in w.reshape(m, d)[i]]
        sums = sorted(sum(a * abs(Fraction(float(v))) for a, v in zip(row, t, strict=True)) for t in x.reshape(n, d))
        middle = (sums[(n - 1) // 2] + sums[n // 2]) / 2
        expected = 8 * 2.0**-24 * (np.sqrt(d) * float(middle) + abs(float(b[i])))
        assert found[i] == pytest.approx(expected, rel=1e-12, abs=0)


def test_each_token_counts_with_its_own_expert(layer_of, tensors):
    layer = layer_of(tensors)
    weights = np.stack([tensors["l.weight"], 1e6 * tensors["l.weight"]])
    few = np.zeros(512, np.int64)
    few[1::8] = 1  # of the tokens that are looked at, none
    both = limits(layer, weights=weights, labels=few)
    np.testing.assert_array_equal(both, limits(layer))
    np.testing.assert_allclose(limits(layer, weights=weights, labels=1 - few), 1e6 * both, rtol=1e-6)


def test_blocks_of_neurons_change_nothing(layer_of, tensors, monkeypatch):
    layer = layer_of(tensors)
    whole = limits(layer)
    monkeypatch.setattr("wncore.rounding.ROOM", 8 * 256 * 3)
    np.testing.assert_allclose(limits(layer), whole, rtol=1e-14)


@backends
def test_experts_are_judged_in_spite_of_a_loud_channel(backend, layer_of, tensors):
    tensors["l.input"][:, 7] = 1e9
    layer, labels = layer_of(tensors), np.arange(512) % 2
    weights = np.stack([tensors["l.weight"]] * 2)
    dense = score_layer(open_layer(layer, backend), pairs=0)
    found = disentangle(open_layer(layer, backend), weights, labels, dense=dense, pairs=0)
    assert np.isfinite(found.wasserstein_weighted).all()
    outputs = Outputs(open_layer(layer, backend, memory=2**28), weights=weights, labels=labels)
    assert np.isfinite(distances(outputs)).all()


def test_dead_and_hidden_neurons_are_told_apart(run, tmp_path):
    rng = np.random.default_rng(0)
    x, w = np.ones((400, 2), np.float32), np.array([[0, 0], [1, 1e-9], [1, 1]], np.float32)
    x[:, 1] = rng.standard_normal(400)
    path = tmp_path / "a.safetensors"
    write_dump(path, {"l.input": 3 + x, "l.weight": w})
    code, out, _ = run("score", path, "--pairs", "0")
    assert code == 0
    assert "l: 1 of 3 neurons are constant: 0" in out or "l: 2 of 3 neurons are constant: 0, 1" in out
    code, out, _ = run("score", path, "--pairs", "0", "--json")
    assert json.loads(out)["layers"][0]["flags"]["constant"] == [0, 1]


def test_the_sentence_blames_the_dtype(run, tmp_path):
    x = np.ones((400, 2), np.float32)
    x[::2, 1] = 1 + 2.0**-20
    path = tmp_path / "a.safetensors"
    write_dump(path, {"l.input": x, "l.weight": np.array([[0, 0], [1, 1]], np.float32)})
    code, out, _ = run("score", path, "--pairs", "0")
    assert code == 0
    assert "l: 1 of 2 neurons are constant: 0" in out
    assert "l: 1 of 2 neurons vary by no more than rounding may, float32 cannot tell them from constant: 1" in out
    assert "no neuron has a distance: all are constant, as far as float32 can tell" in out
    write_dump(path, {"l.output": np.ones((400, 2), np.float32)}, force=True)
    assert "no neuron has a distance: all are constant\n" in run("score", path)[1]
