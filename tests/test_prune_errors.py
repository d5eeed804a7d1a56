"""How `wncore prune` fails: before any work, in one line, with nothing lost."""

import numpy as np
import pytest

import wncore_cli
from wncore.dumps import write_dump

RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 8)).astype(np.float32)
W = RNG.standard_normal((6, 8)).astype(np.float32)


@pytest.fixture
def acts(tmp_path):
    path = tmp_path / "acts.safetensors"
    write_dump(path, {"l.input": X, "l.weight": W}, sequence_length=16)
    return path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sparsity", "1.5"], "a sparsity lies between 0 (dense) and 1 (all zeros); got 1.5"),
        (["--sparsity", "-0.1"], "got -0.1"),
        (["--sparsity", "nan"], "got nan"),
        (["--sparsity", "half"], "'half' is no sparsity; write a share such as 0.5, or a pattern such as 2:4"),
        (["--sparsity", ""], "is no sparsity"),
        (["--sparsity", "4:2"], "4:2 is no pattern: N:M keeps N of every M inputs"),
        (["--sparsity", "0:4"], "0:4 is no pattern"),
        (["--sparsity", "2:x"], "is no sparsity"),
        (["--sparsity", "0.5,0.5"], "names a pattern twice"),
        (["--sparsity", "0.5,"], "is no sparsity"),
        (["--method", "best"], "'best' is not one of"),
        (["--bits", "9"], "9 is not in the range"),
        (["--bits", "4", "--resolve"], "--resolve would move weights off the grid"),
        (["--holdout", "1"], "1.0 is not in the range"),
        (["--ridge", "-1"], "-1.0 is not in the range"),
        (["--sparsity", "1:99999999999999999999999"], "is no pattern"),
        (["--ridge", "nan"], "nan is no number to work with"),
        (["--ridge", "inf"], "inf is no number to work with"),
        (["--holdout", "nan"], "nan is no number to work with"),
        (["--bits-group", "4"], "--bits-group has no effect without --bits"),
        (["--iterations", "9", "--method", "wanda"], "--iterations has no effect on wanda"),
        (["--method", "obs", "--no-resolve"], "--no-resolve has no effect on obs"),
        (["--sparsity", "2:4", "--group", "row"], "--group has no effect on N:M"),
        (["--plot", "pictures", "--no-wasserstein"], "--plot shows distances, and --no-wasserstein leaves them out"),
        (["--by-neuron", "s.safetensors", "--published"], "--published compares neurons with each other"),
        (["--published", "--method", "admm"], "--published sets --method itself"),
        (["--published", "--ridge", "0.1", "--group", "row"], "--published sets --group, --ridge itself"),
    ],
)
def test_wrong_usage_is_told_from_bad_input(run, acts, options, says):
    code, out, err = run("prune", acts, *options)
    assert code == 2
    assert out == ""
    assert says in " ".join(err.split())


def check(run, source, says, *options):
    code, out, err = run("prune", source, *options)
    assert code == 1
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("wncore: error: ")
    assert says in line


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"l.weight": W}, "cannot be pruned: none of l has a weight and an input, or its gram"),
        ({"l.input": X, "l.output": X @ W.T}, "cannot be pruned"),
        ({"l.input": X, "l.weight": W[:, :5]}, "l: input has 8 channels, weight 5 columns"),
        ({"l.gram": (X.T @ X)[:5, :5], "l.weight": W}, "gram is 5 x 5 for 8 inputs"),
        ({"l.gram": np.triu(X.T @ X), "l.weight": W}, "l.gram is not symmetric"),
        ({"l.gram": np.where(np.eye(8), np.nan, X.T @ X), "l.weight": W}, "l.gram holds NaN or infinity: 8 of its 64"),
        ({"l.gram": -(X.T @ X), "l.weight": W}, "l.gram is no Gram matrix: H["),
        ({"l.input": np.where(X > 2, np.inf, X), "l.weight": W}, "l.input holds NaN or infinity"),
        ({"l.input": X, "l.weight": np.where(W > 1, np.nan, W)}, "l.weight holds NaN or infinity"),
        ({"l.input": X[:1], "l.weight": W}, "l has 1 tokens that count"),
        ({"l.input": X[:2], "l.weight": W}, "l has 2 tokens; with --holdout 0.1 fewer than 2 are left"),
        ({"l.input": X * np.float64(1e-170), "l.weight": W}, "l: the squares of its inputs vanish in float64"),
        ({"l.input": X, "l.weight": W.astype(np.int8)}, "a floating type is needed (dequantise it first)"),
    ],
)
def test_bad_input(run, tmp_path, tensors, says):
    path = tmp_path / "bad.safetensors"
    write_dump(path, tensors)
    check(run, path, says)


def test_no_token_can_be_left_out_of_a_gram_matrix(run, tmp_path):
    path = tmp_path / "gram.safetensors"
    write_dump(path, {"l.gram": X.T @ X, "l.weight": W})
    check(run, path, "--skip-tokens needs the input itself", "--skip-tokens", "4")


def test_the_file_of_sparsities_is_not_replaced(run, acts, tmp_path):
    from wncore.dumps import write_tensors

    write_tensors(tmp_path / "s.safetensors", {"l.sparsity": np.zeros(6)})
    options = ["--by-neuron", tmp_path / "s.safetensors", "-o", tmp_path / "s.safetensors", "--force"]
    check(run, acts, "s.safetensors is read itself", *options)


def test_no_memory_is_said_before_any_work(run, tmp_path):
    path = tmp_path / "wide.safetensors"
    write_dump(path, {"l.input": np.ones((4, 300)), "l.weight": np.ones((400, 300))})
    check(run, path, "l: pruning 400 neurons of 300 inputs takes about", "--memory", "1MiB")


def test_an_output_is_not_replaced_unless_forced(run, acts, tmp_path):
    out = tmp_path / "p.safetensors"
    out.write_bytes(b"precious")
    check(run, acts, "exists already", "-o", out)
    assert out.read_bytes() == b"precious"
    assert run("prune", acts, "-o", out, "--force")[0] == 0
    assert len(out.read_bytes()) > 100


@pytest.mark.parametrize(
    ("name", "says"),
    [("acts.safetensors", "is read itself; write"), ("p.bin", "are written as .safetensors"),
     ("none/p.safetensors", "there is no folder")],
)  # fmt: skip
def test_where_nothing_can_be_written(run, acts, tmp_path, name, says):
    before = acts.read_bytes()
    check(run, acts, says, "-o", tmp_path / name, "--force")
    assert acts.read_bytes() == before


def test_every_file_of_a_sweep_is_checked_first(run, acts, tmp_path):
    (tmp_path / "p-2of4.safetensors").write_bytes(b"precious")
    check(run, acts, "p-2of4.safetensors exists already", "-o", tmp_path / "p.safetensors", "--sparsity", "0.5,2:4")
    assert not (tmp_path / "p-0.5.safetensors").exists()


def test_weights_that_leave_their_dtype_are_an_error(run, tmp_path):
    path, out = tmp_path / "a.safetensors", tmp_path / "p.safetensors"
    x = np.repeat(RNG.standard_normal((64, 1)), 2, axis=1) + 1e-6 * RNG.standard_normal((64, 2))
    write_dump(path, {"l.input": x, "l.weight": np.full((1, 2), 6e4, np.float16)})
    check(run, path, "l: pruned weights overflow F16; store the weights in a wider dtype", "-o", out)
    assert not out.exists()


def test_an_interrupt_leaves_nothing_behind(acts, tmp_path, monkeypatch, capsys):
    from wncore.reference import NumpyBackend

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(NumpyBackend, "prune", interrupt)
    assert wncore_cli.main(["prune", str(acts), "-o", str(tmp_path / "p.safetensors"), "--backend", "numpy"]) == 130
    assert capsys.readouterr().err.strip() == "wncore: interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["acts.safetensors"]


def test_layers_that_cannot_be_pruned_are_left_out_and_named(run, tmp_path):
    path = tmp_path / "a.safetensors"
    write_dump(path, {"l.input": X, "l.weight": W, "m.weight": W})
    code, out, err = run("prune", path)
    assert code == 0
    assert "m" not in [line.split()[0] for line in out.splitlines() if line]
    assert "note: 1 layers lack a weight, or an input or gram, and are left out: m" in err


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "lacks l.sparsity; it holds nothing"),
        ({"m.sparsity": np.zeros(6)}, "lacks l.sparsity; it holds m.sparsity"),
        ({"l.sparsity": np.zeros(5)}, "is F64 (5,); 6 floats are needed, one a neuron"),
        ({"l.sparsity": np.zeros(6, np.uint8)}, "is U8 (6,); 6 floats are needed"),
        ({"l.sparsity": np.full(6, np.nan)}, "l.sparsity holds NaN or infinity: 6 of its 6 values"),
        ({"l.sparsity": np.full(6, 1.5)}, "a sparsity lies between 0 (dense) and 1 (all zeros); got 1.5"),
    ],
)
def test_bad_sparsities_by_neuron(run, acts, tmp_path, tensors, says):
    from wncore.dumps import write_tensors

    write_tensors(tmp_path / "s.safetensors", tensors)
    check(run, acts, says, "--by-neuron", tmp_path / "s.safetensors")


def test_a_sparsity_by_neuron_needs_rows(run, acts, tmp_path):
    from wncore.dumps import write_tensors

    write_tensors(tmp_path / "s.safetensors", {"l.sparsity": np.full(6, 0.5)})
    check(run, acts, "needs the comparison group row or row-block, not layer",
          "--by-neuron", tmp_path / "s.safetensors", "--group", "layer")  # fmt: skip
    code, _, err = run("prune", acts, "--by-neuron", tmp_path / "s.safetensors", "--sparsity", "0.5")
    assert code == 2
    assert "--by-neuron takes the place of --sparsity" in err
