"""How `wncore expand` fails: before any work, in one line, with nothing lost."""

import numpy as np
import pytest
from dump_samples import names_in

import wncore_cli
from wncore.dumps import write_dump, write_tensors

RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 8)).astype(np.float32)
W = RNG.standard_normal((6, 8)).astype(np.float32)
QUICK = ("--experts", 2, "--no-wasserstein", "--restarts", 1)


@pytest.fixture
def acts(tmp_path):
    path = tmp_path / "acts.safetensors"
    write_dump(path, {"l.input": X, "l.weight": W}, sequence_length=16)
    return path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--experts", "0"], "'0' is no number of experts; write 16, or 1,2,4,8,16, or auto"),
        (["--experts", "-2"], "'-2' is no number of experts"),
        (["--experts", "many"], "'many' is no number of experts"),
        (["--experts", ""], "'' is no number of experts"),
        (["--experts", "2,"], "'2,' is no number of experts"),
        (["--experts", "1.5"], "'1.5' is no number of experts"),
        (["--experts", "2,auto"], "'2,auto' is no number of experts"),
        (["--experts", "²"], "is no number of experts"),
        (["--experts", "9999999"], "'9999999' is no number of experts"),
        (["--experts", "2,4,02"], "2,4,02 names a number twice"),
        (["--sparsity", "1.5"], "a sparsity lies between 0 (dense) and 1 (all zeros); got 1.5"),
        (["--sparsity", "4:2"], "4:2 is no pattern"),
        (["--sparsity", "0.5,0.5"], "names a pattern twice"),
        (["--components", "0"], "0 is not in the range"),
        (["--restarts", "0"], "0 is not in the range"),
        (["--seed", "-1"], "-1 is not in the range"),
        (["--min-tokens", "0"], "0 is not in the range"),
        (["--prior", "-1"], "-1.0 is not in the range"),
        (["--prior", "nan"], "nan is no number to work with"),
        (["--prior", "inf"], "inf is no number to work with"),
        (["--holdout", "1"], "1.0 is not in the range"),
        (["--ridge", "nan"], "nan is no number to work with"),
        (["--pairs", "-1"], "-1 is not in the range"),
        (["--top", "-1"], "-1 is not in the range"),
        (["--skip-tokens", "-1"], "-1 is not in the range"),
        (["--length", "0"], "0 is not in the range"),
        (["--memory", "1KiB"], "is too little; 1MiB is the least"),
        (["--threads", "0"], "0 is not in the range"),
        (["--method", "best"], "'best' is not one of"),
        (["--bits", "9"], "9 is not in the range"),
        (["--packed"], "--packed has no effect without -o; leave one of the two out"),
        (["--pairs", "9", "--no-wasserstein"], "--pairs has no effect with --no-wasserstein"),
        (["--experts", "auto", "--sparsity", "0.5,0.6"], "--experts auto finds one number, and there are several"),
        (["--plot", "pictures", "--no-wasserstein"], "--plot shows distances, and --no-wasserstein leaves them out"),
        (["--bits-group", "4"], "--bits-group has no effect without --bits"),
        (["--bits", "4", "--resolve"], "--resolve would move weights off the grid"),
        (["--iterations", "9", "--method", "wanda"], "--iterations has no effect on wanda"),
        (["--method", "obs", "--no-resolve"], "--no-resolve has no effect on obs"),
        (["--sparsity", "2:4", "--group", "row"], "--group has no effect on N:M"),
        (["--by-neuron", "s.safetensors", "--published"], "--published compares neurons with each other"),
        (["--by-neuron", "s.safetensors", "--sparsity", "0.5"], "--by-neuron takes the place of --sparsity"),
        (["--published", "--ridge", "0.1", "--method", "admm"], "--published sets --method, --ridge itself"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_from_bad_input(run, acts, options, says):
    code, out, err = run("expand", acts, *options)
    assert code == 2
    assert out == ""
    assert says in " ".join(err.split())


def test_a_source_is_needed(run):
    code, _, err = run("expand")
    assert code == 2
    assert "Missing argument 'SOURCES...'" in err


def check(run, source, says, *options):
    code, out, err = run("expand", source, *QUICK, *options)
    assert code == 1
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("wncore: error: ")
    assert says in line


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"l.weight": W}, "cannot be expanded"),
        ({"l.gram": X.T @ X, "l.weight": W}, "cannot be expanded"),
        ({"l.input": X, "l.output": X @ W.T}, "cannot be expanded"),
        ({"l.input": X, "l.weight": W[:, :5]}, "l: input has 8 channels, weight 5 columns"),
        ({"l.input": np.where(X > 2, np.inf, X), "l.weight": W}, "l.input holds NaN or infinity"),
        ({"l.input": X, "l.weight": np.where(W > 1, np.nan, W)}, "l.weight holds NaN or infinity"),
        ({"l.input": X[:1], "l.weight": W}, "l has 1 tokens that count"),
        ({"l.input": X[:2], "l.weight": W}, "l has 2 tokens; with --holdout 0.1 fewer than 2 are left"),
        ({"l.input": X * np.float64(1e-170), "l.weight": W}, "l: the squares of its inputs vanish in float64"),
        ({"l.input": X * np.float64(1e170), "l.weight": W}, "l: the squares of its inputs overflow float64"),
        ({"l.input": X, "l.weight": W.astype(np.int8)}, "a floating type is needed (dequantise it first)"),
    ],
)
def test_bad_input(run, tmp_path, tensors, says):
    path, out = tmp_path / "bad.safetensors", tmp_path / "e.safetensors"
    write_dump(path, tensors)
    check(run, path, says, "-o", out)
    assert names_in(tmp_path) == ["bad.safetensors"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--experts", "59"], "l has 58 tokens to calibrate by; 59 experts need as many, give fewer"),
        (["--components", "9"], "l has 8 inputs, and so many --components at most; got 9"),
        (["--experts", "auto", "--holdout", "0"], "found by the error on tokens held out; give --holdout, or a number"),
        (["--layer", "m*"], "--layer m* matches none of the 1 layers: l"),
        (["--length", "8"], "the dump says that a sequence has 16 tokens, and you say 8"),
        (["--skip-tokens", "16"], "l has 0 tokens that count, of 64"),
        (["--backend", "none"], "there is no backend 'none'"),
        (["--backend", "numpy", "--device", "cuda"], "backend 'numpy' has no option device"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done(run, acts, tmp_path, options, says):
    check(run, acts, says, "-o", tmp_path / "e.safetensors", "--memory", "64MiB", *options)
    assert names_in(tmp_path) == ["acts.safetensors"]


def test_no_memory_is_said_before_any_work(run, tmp_path, monkeypatch):
    """The last of two layers, and the largest of a list of numbers, do not fit: the first is not begun."""
    from wncore.experts import runs

    monkeypatch.setattr(runs, "sum_clusters", lambda *_, **__: pytest.fail("work has begun"))
    path = tmp_path / "wide.safetensors"
    tensors = {"a.input": X, "a.weight": W, "b.input": np.ones((64, 300)), "b.weight": np.ones((400, 300))}
    write_dump(path, tensors)
    check(run, path, "b: 16 experts of 400 neurons and 300 inputs take about ",
          "--memory", "24MiB", "--experts", "1,2,16")  # fmt: skip


# ---- files


def test_an_output_is_not_replaced_unless_forced(run, acts, tmp_path):
    out = tmp_path / "e.safetensors"
    out.write_bytes(b"precious")
    check(run, acts, "exists already", "-o", out)
    assert out.read_bytes() == b"precious"
    assert run("expand", acts, "-o", out, "--force", *QUICK)[0] == 0
    assert len(out.read_bytes()) > 100
    assert names_in(tmp_path) == ["acts.safetensors", "e.safetensors"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("acts.safetensors", "is read itself; write the result to another file"),
        ("e.bin", "are written as .safetensors; name such a file"),
        ("none/e.safetensors", "there is no folder"),
    ],
)
def test_where_nothing_can_be_written(run, acts, tmp_path, name, says):
    before = acts.read_bytes()
    check(run, acts, says, "-o", tmp_path / name, "--force")
    assert acts.read_bytes() == before
    assert names_in(tmp_path) == ["acts.safetensors"]


def test_a_link_to_the_source_is_the_source(run, acts, tmp_path):
    (tmp_path / "link.safetensors").symlink_to(acts)
    check(run, acts, "is read itself", "-o", tmp_path / "link.safetensors", "--force")


@pytest.mark.parametrize("taken", ["e-1-0.5", "e-2-2of4"])
def test_every_file_of_a_sweep_is_checked_first(run, acts, tmp_path, taken):
    (tmp_path / f"{taken}.safetensors").write_bytes(b"precious")
    options = ["-o", tmp_path / "e.safetensors", "--experts", "1,2", "--sparsity", "0.5,2:4"]
    check(run, acts, f"{taken}.safetensors exists already", *options)
    assert names_in(tmp_path) == ["acts.safetensors", f"{taken}.safetensors"]


def test_pictures_are_not_replaced_unless_forced(run, acts, tmp_path):
    pytest.importorskip("matplotlib")
    options = ["expand", acts, "--experts", 2, "--pairs", 9, "--plot", tmp_path / "pictures"]
    assert run(*options)[0] == 0
    code, out, err = run(*options)
    assert (code, out) == (1, "")
    assert "exists already" in err
    assert run(*options, "--force")[0] == 0


def test_a_file_of_experts_is_no_dump(run, acts, tmp_path):
    out = tmp_path / "e.safetensors"
    assert run("expand", acts, "-o", out, *QUICK)[0] == 0
    check(run, out, "holds sparse experts, no inputs or outputs")


def test_weights_that_leave_their_dtype_are_an_error(run, tmp_path):
    path, out = tmp_path / "a.safetensors", tmp_path / "e.safetensors"
    x = np.repeat(RNG.standard_normal((64, 1)), 2, axis=1) + 1e-6 * RNG.standard_normal((64, 2))
    write_dump(path, {"l.input": x, "l.weight": np.full((1, 2), 6e4, np.float16)})
    check(run, path, "l: pruned weights overflow F16; store the weights in a wider dtype", "-o", out)
    assert names_in(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "lacks l.sparsity; it holds nothing"),
        ({"l.sparsity": np.zeros(5)}, "is F64 (5,); 6 floats are needed, one a neuron"),
        ({"l.sparsity": np.full(6, np.nan)}, "l.sparsity holds NaN or infinity: 6 of its 6 values"),
        ({"l.sparsity": np.full(6, 1.5)}, "a sparsity lies between 0 (dense) and 1 (all zeros); got 1.5"),
    ],
)
def test_bad_sparsities_by_neuron(run, acts, tmp_path, tensors, says):
    write_tensors(tmp_path / "s.safetensors", tensors)
    check(run, acts, says, "--by-neuron", tmp_path / "s.safetensors")


def test_the_file_of_sparsities_is_not_replaced(run, acts, tmp_path):
    path = tmp_path / "s.safetensors"
    write_tensors(path, {"l.sparsity": np.zeros(6)})
    check(run, acts, "s.safetensors is read itself", "--by-neuron", path, "-o", path, "--force")


def test_an_interrupt_leaves_nothing_behind(acts, tmp_path, monkeypatch, capsys):
    from wncore.reference import NumpyBackend

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(NumpyBackend, "prune", interrupt)
    arguments = ["expand", acts, "-o", tmp_path / "e.safetensors", "--backend", "numpy", *QUICK]
    assert wncore_cli.main(list(map(str, arguments))) == 130
    assert capsys.readouterr().err.strip() == "wncore: interrupted"
    assert names_in(tmp_path) == ["acts.safetensors"]
