"""`inspect`, `backends`, and how commands fail: exit codes, one line, nothing lost."""

import json
import subprocess
import sys

import numpy as np
import pytest

import wncore
import wncore_cli
from wncore.dumps import write_dump


def test_inspect_confirms_and_contradicts(run, tmp_path):
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((64, 6), dtype=np.float32), rng.standard_normal((5, 6), dtype=np.float32)
    good, bad, relu = tmp_path / "good.safetensors", tmp_path / "bad.safetensors", tmp_path / "relu.safetensors"
    y = x @ w.T
    write_dump(good, {"l.input": x, "l.weight": w, "l.output": y})
    write_dump(bad, {"l.input": x, "l.weight": w, "l.output": np.where(np.arange(5) == 3, y + 1, y)})
    write_dump(relu, {"l.output": np.maximum(y, 0)})
    code, out, _ = run("inspect", good)
    assert code == 0
    assert "agrees" in out
    assert "warning" not in out
    code, out, _ = run("inspect", bad)
    assert code == 0
    assert "warning: l: output and input x weight disagree: neuron 3" in out
    assert "after an activation" in run("inspect", relu)[1]
    found = json.loads(run("inspect", bad, "--json")[1])
    assert found["schema"] == "wncore.inspect/1"
    assert found["layers"][0]["worst_neuron"] == 3


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "sigmoid"])
def test_inspect_knows_activations(run, tmp_path, activation):
    from scipy.special import expit, ndtr

    y = 2 * np.random.default_rng(4).standard_normal((512, 8))
    after = {"relu": np.maximum(y, 0), "silu": y * expit(y), "gelu": y * ndtr(y), "sigmoid": expit(y)}[activation]
    write_dump(tmp_path / "a.safetensors", {"l.output": after, "m.output": y})
    out = run("inspect", tmp_path / "a.safetensors")[1]
    assert "warning: l:" in out
    assert "warning: m:" not in out


def test_backends_are_listed(run):
    code, out, _ = run("backends")
    assert code == 0
    assert {"numpy", "numba", "torch"} <= {line.split()[0] for line in out.splitlines()}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["score"], 2, "Missing argument"),
        (["score", "x", "--nonsense"], 2, "No such option"),
        (["score", "x", "--memory", "lots"], 2, "is no size"),
        (["score", "x", "--top", "-1"], 2, "-1"),
        (["nonsense"], 2, "No such command"),
        (["score", "missing.safetensors"], 1, "there is no file missing.safetensors"),
        (["score", "x", "--backend", "cuda"], 1, ""),
        (["score", "x", "-o", "scores.txt"], 1, "extension '.txt' is unknown"),
        (["score", "x", "-o", "no/such/folder/scores.csv"], 1, "there is no folder"),
        (["certify", "nonsense"], 1, "there is no backend 'nonsense'"),
        (["certify", "numba", "--option", "threads"], 2, "'threads' is no option; write NAME=VALUE"),
        (["certify", "numba", "--option", "threads=1", "--option", "threads=2"], 2, "option threads is given twice"),
        (["certify", "torch", "--device", "cpu", "--option", "device=cpu"], 2, "option device is given twice"),
        (["certify", "numba", "--option", "kernels=plain"], 1, "has no option kernels; it takes threads"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(run, arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, out, err = run(*arguments)
    assert got == code
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    if code == 1:
        assert err.startswith("wncore: error: ")
        assert len(err.splitlines()) == 1


def test_debug_shows_the_traceback():
    with pytest.raises(wncore.WncoreError):
        wncore_cli.main(["score", "missing.safetensors", "--debug"])


def test_an_interrupt_exits_with_130(run, dump, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("wncore.scoring.score_layer", interrupted)
    code, _, err = run("score", dump)
    assert code == 130
    assert err.strip() == "wncore: interrupted"


def test_a_closed_pipe_ends_quietly(dump):
    script = f"{sys.executable} -c 'import wncore_cli; wncore_cli.run()' score {dump} --json | head -c 10"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert "Traceback" not in run.stderr
    assert "error" not in run.stderr


def test_constant_neurons_of_computed_outputs_are_constant(run, tmp_path):
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((1, 33), dtype=np.float32), 513, axis=0)  # BLAS rounds equal rows unequally
    w, b = rng.standard_normal((37, 33), dtype=np.float32), rng.standard_normal(37).astype(np.float32)
    path = tmp_path / "repeated.safetensors"
    write_dump(path, {"l.input": x, "l.weight": w, "l.bias": 100 * b})
    code, out, _ = run("score", path, "--json")
    assert code == 0
    layer = json.loads(out)["layers"][0]
    assert layer["flags"]["constant"] == list(range(37))
    assert layer["wasserstein"] == [None] * 37
    code, out, err = run("score", path)
    assert code == 0
    assert "all are constant" in out
    assert err == ""


def test_comparing_dumps_of_different_length_is_pointed_out(run, tmp_path):
    y = np.random.default_rng(0).standard_normal((4096, 20)).astype(np.float32)
    long, short = tmp_path / "long.safetensors", tmp_path / "short.safetensors"
    write_dump(long, {"l.output": y})
    write_dump(short, {"l.output": y[:256]})
    code, out, err = run("score", long, "--against", short)
    assert code == 0
    assert "note: the two dumps have different numbers of tokens for l" in err
    assert "256" in out


def test_wide_bounds_are_pointed_out(run, tmp_path):
    y = np.random.default_rng(0).standard_normal((60_000, 2))
    y[:, 1] *= np.where(np.arange(60_000) == 7, 1e9, 1)  # one token rules the deviation, and no sample sees it
    write_dump(tmp_path / "spike.safetensors", {"l.output": y})
    code, out, _ = run("score", tmp_path / "spike.safetensors", "--streaming", "--json")
    layer = json.loads(out)["layers"][0]
    wide = layer["wasserstein_high"][1] - layer["wasserstein_low"][1] > 0.02
    assert code == 0
    assert layer["flags"]["wide_bounds"] == ([1] if wide else [])
    assert layer["wasserstein_high"][0] - layer["wasserstein_low"][0] < 0.02


def test_a_late_change_of_scale_does_not_widen_the_bounds(run, tmp_path):
    y = np.random.default_rng(0).standard_normal((60_000, 1)).astype(np.float32)
    y[:4096] *= 0.01
    write_dump(tmp_path / "warm.safetensors", {"l.output": y})
    layer = json.loads(run("score", tmp_path / "warm.safetensors", "--streaming", "--json")[1])["layers"][0]
    assert layer["wasserstein_high"][0] - layer["wasserstein_low"][0] < 5e-3


def test_too_few_tokens_have_no_error(run, tmp_path):
    write_dump(tmp_path / "few.safetensors", {"l.output": np.random.default_rng(0).standard_normal((3, 2))})
    layer = json.loads(run("score", tmp_path / "few.safetensors", "--json")[1])["layers"][0]
    assert layer["wasserstein_error"] == [None, None]
    assert layer["flags"]["first_token"] is None


def test_a_stated_sequence_length_is_not_overruled(run, dump):
    code, _, err = run("score", dump, "--length", 99)
    assert code == 1
    assert "says that a sequence has 32 tokens" in err


def test_help_shows_the_examples_line_by_line(run):
    out = run("score", "--help")[1]
    assert "\\b" not in out
    assert "\n  wncore score acts.safetensors\n" in out


def test_all_constant_layers_can_be_drawn(run, tmp_path):
    pytest.importorskip("matplotlib")
    write_dump(tmp_path / "flat.safetensors", {"l.output": np.ones((64, 3), np.float32)})
    assert run("score", tmp_path / "flat.safetensors", "--plot", tmp_path / "pictures")[0] == 0


def test_the_dump_itself_is_not_replaced_by_its_scores(run, dump):
    before = dump.read_bytes()
    code, _, err = run("score", dump, "-o", dump, "--force")
    assert code == 1
    assert "is part of the dump" in err
    assert dump.read_bytes() == before


@pytest.mark.parametrize("part", ["input", "weight", "bias"])
def test_inspect_finds_nan_where_no_output_is_stored(run, tmp_path, part):
    tensors = {"input": np.ones((6, 3), np.float32), "weight": np.ones((2, 3), np.float32), "bias": np.ones(2)}
    tensors[part][(-1,) * tensors[part].ndim] = np.nan
    write_dump(tmp_path / "nan.safetensors", {f"l.{name}": array for name, array in tensors.items()})
    code, out, err = run("inspect", tmp_path / "nan.safetensors")
    assert code == 1
    assert f"error: l.{part} holds NaN" in out
    assert f"l.{part} holds NaN" in err


def test_inspect_leaves_padding_out(run, tmp_path):
    x = np.ones((6, 3), np.float32)
    x[5] = np.nan
    tensors = {"l.input": x, "l.weight": np.ones((2, 3), np.float32), "tokens.mask": np.arange(6) < 5}
    write_dump(tmp_path / "padded.safetensors", tensors)
    assert run("inspect", tmp_path / "padded.safetensors")[0] == 0
