"""NaN and infinity: those that count are counted, and the first of them is named by its place in the file."""

import ml_dtypes
import numpy as np
import pytest
from rawfile import write

COUNTED = np.ones(24, bool)
COUNTED[:6] = COUNTED[12:14] = False


def outputs(shape=(24, 3)):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def refusal(run, command, *arguments):
    code, _, err = run(command, *arguments, "--backend", "numpy")
    assert code == 1, err
    return err


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_padding_is_neither_counted_nor_named(run, tmp_path, value, dtype):
    y = outputs().astype(dtype)
    y[~COUNTED] = np.nan
    y[20, 1] = y[21, 2] = value
    path = write(tmp_path / "a.safetensors", {"l.output": y, "tokens.mask": COUNTED})
    says = "l.output holds NaN or infinity: 2 of the 48 values that count, the first at token 20, channel 1; leave"
    assert says in refusal(run, "score", path)
    assert says in refusal(run, "score", path, "--streaming")
    assert says in refusal(run, "inspect", path)


@pytest.mark.parametrize("command", ["score", "inspect", "prune", "expand"])
def test_so_it_is_with_inputs(run, tmp_path, command):
    x, w = outputs((24, 3)), outputs((4, 3))
    x[~COUNTED] = np.inf
    x[7, 2] = np.nan
    path = write(tmp_path / "a.safetensors", {"l.input": x, "l.weight": w, "tokens.mask": COUNTED})
    more = ["--experts", "2", "--sparsity", "0.5"] if command == "expand" else []
    assert "l.input holds NaN or infinity: 1 of the 48 values that count, the first at token 7, channel 2;" in refusal(
        run, command, path, *more
    )


def test_tokens_that_are_skipped_do_not_count(run, tmp_path):
    y = outputs((4, 6, 3))
    y[:, :2] = np.nan  # skipped
    y[2, 3, 1] = np.inf
    path = write(tmp_path / "a.safetensors", {"l.output": y})
    assert "1 of the 48 values that count, the first at [2, 3, 1], token 15, channel 1;" in refusal(
        run, "score", path, "--skip-tokens", 2
    )
    y[2, 3, 1] = 0
    write(path, {"l.output": y})
    assert run("score", path, "--skip-tokens", 2)[0] == 0


def test_heads_have_their_own_axis_in_the_message(run, tmp_path):
    y = outputs((3, 4, 2, 5))
    y[1, 2, 1, 3] = np.nan
    path = write(tmp_path / "a.safetensors", {"l.output": y})
    assert "1 of its 120 values, the first at [1, 2, 1, 3], token 6, channel 8;" in refusal(run, "score", path)


def test_of_several_files_the_right_one_is_named(run, tmp_path):
    for i in range(3):
        y = outputs((10, 2))
        y[:4] = np.nan if i < 2 else 0
        y[7, 1] = np.nan if i == 2 else 0
        mask = np.arange(10) >= 4
        write(tmp_path / f"part-{i}.safetensors", {"l.output": y, "tokens.mask": mask})
    assert "1 of the 36 values that count, the first at [7, 1] in part-2.safetensors, token 27, channel 1;" in refusal(
        run, "score", tmp_path
    )


def test_weights_are_counted_whole(run, tmp_path):
    w = outputs((4, 3))
    w[2, 1] = np.nan
    path = write(tmp_path / "a.safetensors", {"l.input": outputs(), "l.weight": w, "tokens.mask": COUNTED})
    assert "l.weight holds NaN or infinity: 1 of its 12 values, the first at neuron 2, channel 1; replace" in refusal(
        run, "score", path
    )


def test_a_bias_has_neurons_and_a_gram_two_channels(run, tmp_path):
    bias = np.zeros(4, np.float32)
    bias[3] = np.nan
    path = write(tmp_path / "a.safetensors", {"l.input": outputs(), "l.weight": outputs((4, 3)), "l.bias": bias})
    for command in ("score", "inspect"):
        assert "l.bias holds NaN or infinity: 1 of its 4 values, the first at neuron 3; " in refusal(run, command, path)
    gram = np.eye(3)
    gram[1, 2] = np.inf
    write(path, {"l.gram": gram, "l.weight": outputs((4, 3))})
    for command in ("prune", "inspect"):
        assert "1 of its 9 values, the first at channels 1 and 2; " in refusal(run, command, path)


@pytest.mark.parametrize("shape", [(), (4,), (4, 3)])
def test_of_a_quantised_weight_the_scale_is_named(run, tmp_path, shape):
    scale = np.ones(shape, np.float32)
    scale[(-1,) * len(shape)] = np.inf
    weight = outputs((4, 3)).astype(ml_dtypes.float8_e4m3fn)
    path = write(tmp_path / "a.safetensors", {"l.input": outputs(), "l.weight": weight, "l.weight_scale": scale})
    row, column = [*(size - 1 for size in shape), 0, 0][:2]
    says = (
        f"l.weight_scale holds NaN or infinity: 1 of its {scale.size} values, the first at row {row}, column {column};"
    )
    for command in ("score", "prune", "inspect"):
        assert says in refusal(run, command, path)
