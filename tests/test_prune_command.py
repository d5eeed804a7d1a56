"""`wncore prune`, as a user sees it: weights, report, sweeps, pictures, and how it fails."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import wncore
from wncore.dumps import write_dump

TOKENS, D = 400, 24
SIZES = {"a.up": 16, "a.gate": 12}


@pytest.fixture
def tensors():
    rng = np.random.default_rng(3)
    common = rng.standard_normal((TOKENS, 8)) @ rng.standard_normal((8, D)) / 3
    x = (common + 0.4 * rng.standard_normal((TOKENS, D))).astype(np.float32)
    found = {"a.up.input": x, "a.up.bias": rng.standard_normal(SIZES["a.up"]).astype(np.float32)}
    return found | {f"{name}.weight": rng.standard_normal((m, D)).astype(np.float32) for name, m in SIZES.items()}


@pytest.fixture
def acts(tmp_path, tensors):
    """Two layers with one input, eight sequences."""
    path = tmp_path / "acts.safetensors"
    write_dump(path, tensors, sequence_length=50, shared_inputs={"a.gate": "a.up"})
    return path


def document(run, *arguments):
    code, out, err = run("prune", *arguments, "--json")
    assert code == 0, err
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def error_of(sparse, dense, x):
    """Relative error from the inputs themselves, of the layer and of each neuron."""
    x, sparse, dense = (np.asarray(a, np.float64) for a in (x, sparse, dense))
    lost, whole = ((x @ (sparse - dense).T) ** 2).sum(0), ((x @ dense.T) ** 2).sum(0)
    return lost.sum() / whole.sum(), lost / whole


def test_weights_keep_their_names_and_the_report_is_true(run, acts, tensors, tmp_path):
    out = tmp_path / "pruned.safetensors"
    found = document(run, acts, "-o", out, "--sparsity", "0.7")
    pruned = load_file(out)
    assert set(pruned) == {"a.up.weight", "a.gate.weight", "a.up.bias"}
    np.testing.assert_array_equal(pruned["a.up.bias"], tensors["a.up.bias"])
    assert (found["schema"], found["pattern"]) == ("wncore.prune/1", "0.7")
    x = tensors["a.up.input"]
    assert [layer["name"] for layer in found["layers"]] == ["a.gate", "a.up"]
    for layer in found["layers"]:
        sparse, dense = pruned[f"{layer['name']}.weight"], tensors[f"{layer['name']}.weight"]
        assert sparse.dtype == dense.dtype
        assert layer["shape"] == list(dense.shape)
        assert layer["zeros"] == np.count_nonzero(sparse == 0) == 7 * dense.size // 10
        assert (layer["tokens"], layer["tokens_holdout"]) == (350, 50)  # the last of 8 sequences
        assert (layer["method"], layer["group"], layer["resolved"]) == ("admm", "layer", True)
        ridges = {"ridge": pytest.approx(D / 350), "zeros_ridge": 0.2}  # the weights' is above that of 0.7, 0.047
        assert layer["damping"] == {"kind": "unit-diagonal", **ridges, "raised": 0}
        for key, part in (("relative_error", x[:350]), ("relative_error_holdout", x[350:])):
            total, by_neuron = error_of(sparse, dense, part)
            assert layer[key] == pytest.approx(total, rel=1e-5)
            np.testing.assert_allclose(layer["neurons"][key], by_neuron, rtol=1e-4)
        np.testing.assert_allclose(layer["neurons"]["sparsity"], (sparse == 0).mean(axis=1))
        for key, weights in (("wasserstein_dense", dense), ("wasserstein_sparse", sparse)):
            np.testing.assert_allclose(layer["neurons"][key], wncore.gaussian_distance(x @ weights.T), rtol=1e-4)


def test_the_file_says_how_it_was_made(run, acts, tmp_path):
    from safetensors import safe_open

    out = tmp_path / "pruned.safetensors"
    assert run("prune", acts, "-o", out, "--method", "wanda", "--no-resolve", "--quiet")[0] == 0
    with safe_open(out, "np") as file:
        found = json.loads(file.metadata()["wncore.prune"])
    assert found["schema"] == "wncore.prune/1"
    assert found["layers"][0]["method"] == "wanda"
    assert "neurons" not in found["layers"][0]


def test_a_run_is_repeated_to_the_bit(run, acts, tmp_path):
    files = [tmp_path / f"{threads}.safetensors" for threads in (1, 2)]
    for threads, path in zip((1, 2), files, strict=True):
        assert run("prune", acts, "-o", path, "--threads", threads, "--quiet")[0] == 0
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "obs", "admm"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_every_method_counts_exactly(run, acts, tmp_path, method, backend):
    out = tmp_path / "pruned.safetensors"
    assert run("prune", acts, "-o", out, "--sparsity", "0.29", "--method", method, "--backend", backend)[0] == 0
    for name, m in SIZES.items():
        assert np.count_nonzero(load_file(out)[f"{name}.weight"] == 0) == 29 * m * D // 100


def test_a_sweep_prints_one_table_and_writes_a_file_for_each(run, acts, tmp_path):
    code, out, _ = run("prune", acts, "-o", tmp_path / "p.safetensors", "--sparsity", "0.5,0.75,2:4")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.startswith("a.")]
    assert [(row[0], row[2], row[3]) for row in rows[:3]] == [
        ("a.gate", "0.5", "50.0000%"),
        ("a.gate", "0.75", "75.0000%"),
        ("a.gate", "2:4", "50.0000%"),
    ]
    assert len(rows) == 6
    assert "2:4 keeps 2 of every 4 consecutive inputs" in out
    kept = load_file(tmp_path / "p-2of4.safetensors")["a.up.weight"] != 0
    assert (kept.reshape(16, D // 4, 4).sum(axis=2) == 2).all()
    assert np.count_nonzero(load_file(tmp_path / "p-0.75.safetensors")["a.up.weight"] == 0) == 288
    found = document(run, acts, "--sparsity", "0.5,0.75,2:4")
    assert [part["pattern"] for part in found["runs"]] == ["0.5", "0.75", "2:4"]
    alone = document(run, acts, "--sparsity", "0.75")
    assert found["runs"][1]["layers"] == alone["layers"]


def test_published_is_sparsegpt_with_its_damping_and_groups(run, acts, tensors, tmp_path):
    from wncore.pruning.cells import cells_of
    from wncore.pruning.damping import damp
    from wncore.pruning.patterns import Unstructured
    from wncore.pruning.sweep import sparsegpt

    out = tmp_path / "p.safetensors"
    found = document(run, acts, "--published", "--holdout", 0, "-o", out)
    layer = found["layers"][1]
    assert (layer["method"], layer["group"], layer["resolved"]) == ("sparsegpt", "block", False)
    assert layer["damping"] == {"kind": "published", "ridge": 0.01, "zeros_ridge": 0.01, "raised": 0}
    x, w = tensors["a.up.input"].astype(np.float64), tensors["a.up.weight"]
    want = sparsegpt(w, damp(x.T @ x, 0.01, "published"), cells_of(Unstructured(0.5), "block", *w.shape))[0]
    np.testing.assert_allclose(load_file(out)["a.up.weight"], want, rtol=1e-4, atol=1e-6)


def test_the_default_loses_less_than_the_published_method(run, acts):
    ours, theirs = (document(run, acts, *options)["layers"] for options in ([], ["--published"]))
    for a, b in zip(ours, theirs, strict=True):
        assert a["relative_error"] < 0.6 * b["relative_error"]
        assert a["relative_error_holdout"] < 0.7 * b["relative_error_holdout"]


def test_a_gram_matrix_is_enough_but_nothing_judges(run, acts, tensors, tmp_path):
    x = tensors["a.up.input"].astype(np.float64)
    grams = tmp_path / "gram.safetensors"
    weights = {name: value for name, value in tensors.items() if name.endswith("weight")}
    write_dump(grams, weights | {f"{name}.gram": x.T @ x for name in SIZES}, gram_tokens=dict.fromkeys(SIZES, TOKENS))
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    found = document(run, grams, "-o", a)
    layer = found["layers"][0]
    assert layer["relative_error_holdout"] is None
    assert layer["neurons"]["relative_error_holdout"] is None
    assert layer["neurons"]["wasserstein_dense"] is None
    assert document(run, acts, "--holdout", 0, "-o", b)["layers"][0]["damping"] == layer["damping"]
    for name in SIZES:
        one, other = load_file(a)[f"{name}.weight"], load_file(b)[f"{name}.weight"]
        assert np.mean((one == 0) != (other == 0)) < 0.02
    assert "the errors are those on the calibration tokens alone" in run("prune", grams)[2]


def test_rank_and_condition_are_worked_out_for_who_asks(run, acts, monkeypatch):
    monkeypatch.setattr("wncore.calibration.eigenvalues", lambda gram: pytest.fail("an eigenproblem"))
    found = document(run, acts, "--no-ranks", "--no-wasserstein")["layers"]
    assert [(one["rank"], one["condition"]) for one in found] == [(None, None)] * 2
    code, out, _ = run("prune", acts, "--no-ranks", "--no-wasserstein")
    assert code == 0
    assert "condition" not in out
    monkeypatch.undo()
    plain = document(run, acts, "--no-wasserstein")["layers"]
    assert all(one["rank"] == D and one["condition"] > 1 for one in plain)
    assert [one | {"rank": None, "condition": None} for one in plain] == found


def test_bits_round_what_is_kept(run, acts, tmp_path):
    out = tmp_path / "p.safetensors"
    assert run("prune", acts, "--bits", 3, "--method", "sparsegpt", "-o", out)[0] == 0
    assert max(len(np.unique(row)) for row in load_file(out)["a.up.weight"]) <= 8


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_weights_keep_their_dtype_and_errors_are_of_what_is_stored(run, tensors, tmp_path, dtype):
    path, out = tmp_path / "acts.safetensors", tmp_path / "p.safetensors"
    w = tensors["a.up.weight"].astype(dtype)
    write_dump(path, {"l.input": tensors["a.up.input"], "l.weight": w})
    found = document(run, path, "-o", out, "--sparsity", "0.5")["layers"][0]
    stored = wncore.dumps.open_dump(out).layers["l"].weight.read()
    assert stored.dtype == w.dtype
    assert found["zeros"] == np.count_nonzero(stored == 0) == w.size // 2
    assert found["relative_error"] == pytest.approx(error_of(stored, w, tensors["a.up.input"][:360])[0], rel=1e-5)


def test_no_sparsity_changes_no_bit_and_full_sparsity_leaves_nothing(run, acts, tensors, tmp_path):
    assert run("prune", acts, "-o", tmp_path / "p.safetensors", "--sparsity", "0,1")[0] == 0
    np.testing.assert_array_equal(load_file(tmp_path / "p-0.safetensors")["a.up.weight"], tensors["a.up.weight"])
    assert not load_file(tmp_path / "p-1.safetensors")["a.up.weight"].any()
    layer = document(run, acts, "--sparsity", "1")["layers"][0]
    assert layer["relative_error"] == pytest.approx(1)
    assert layer["neurons"]["wasserstein_sparse"] == [None] * SIZES["a.gate"]  # constant outputs


def test_few_tokens_dead_inputs_and_raised_damping_are_pointed_out(run, tensors, tmp_path):
    path = tmp_path / "few.safetensors"
    x = tensors["a.up.input"][:20].copy()
    x[:, 5] = 0
    write_dump(path, {"l.input": x, "l.weight": tensors["a.up.weight"]})
    code, out, err = run("prune", path, "--ridge", 0)
    assert code == 0
    assert "note: l: 18 calibration tokens for 24 inputs (rank 18)" in err
    assert "note: l: 1 of 24 inputs are zero on every token" in err
    assert "note: l: the ridge had to be raised to" in err
    assert "* raised until the matrix could be factorised" in out


def test_pictures_are_drawn(run, acts, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "pictures"
    assert run("prune", acts, "--sparsity", "0.5,2:4", "--layer", "a.up", "--plot", folder)[0] == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "000-a.up-0.5.errors.png",
        "000-a.up-0.5.outputs.png",
        "001-a.up-2of4.errors.png",
        "001-a.up-2of4.outputs.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    code, _, err = run("prune", acts, "--sparsity", "0.5,2:4", "--layer", "a.up", "--plot", folder)
    assert code == 1
    assert "exists already" in err


def test_each_neuron_may_have_a_sparsity_of_its_own(run, acts, tensors, tmp_path):
    shares = {name: np.zeros(m) for name, m in SIZES.items()}
    shares["a.up"][[2, 7]] = 0.75
    wncore.dumps.write_tensors(tmp_path / "s.safetensors", {f"{name}.sparsity": s for name, s in shares.items()})
    out = tmp_path / "p.safetensors"
    found = document(run, acts, "--by-neuron", tmp_path / "s.safetensors", "-o", out)
    assert (found["pattern"], found["layers"][1]["group"]) == ("by neuron", "row")
    pruned = load_file(out)
    np.testing.assert_array_equal((pruned["a.up.weight"] == 0).sum(axis=1), shares["a.up"] * D)
    np.testing.assert_array_equal(pruned["a.gate.weight"], tensors["a.gate.weight"])
    rest = shares["a.up"] == 0
    np.testing.assert_array_equal(pruned["a.up.weight"][rest], tensors["a.up.weight"][rest])


def test_layers_that_share_an_input_but_not_a_mask_do_not_share_its_gram_matrix(run, tmp_path):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((100, 6))
    x[:40] *= 30
    folder = tmp_path / "set"
    folder.mkdir()
    all_count = {"tokens.mask": np.ones(100, bool)}
    write_dump(folder / "a.safetensors", {"gate.input": x, "gate.weight": np.ones((2, 6))} | all_count)
    mask = np.arange(100) >= 40
    tensors = {"up.output": x @ np.ones((6, 2)), "up.weight": np.ones((2, 6)), "tokens.mask": mask}
    write_dump(folder / "b.safetensors", tensors, shared_inputs={"up": "gate"})
    both, alone = document(run, folder)["layers"], document(run, folder, "--layer", "up")["layers"]
    assert [layer["tokens"] for layer in both] == [90, 54]
    assert both[1] == alone[0]


@pytest.mark.parametrize(
    ("what", "unit"),
    [("l.input", 1e-100), ("l.input", 1e100), *(("l.weight", unit) for unit in (1e-160, 1e-100, 1e100, 1e160))],
)
def test_units_change_no_error(run, tensors, tmp_path, what, unit):
    found = []
    for factor in (1.0, unit):
        held = {"l.input": tensors["a.up.input"].astype(float), "l.weight": tensors["a.up.weight"].astype(float)}
        write_dump(tmp_path / "u.safetensors", held | {what: held[what] * factor}, force=True)
        found.append(document(run, tmp_path / "u.safetensors", "--no-wasserstein")["layers"][0])
    for key in ("relative_error", "relative_error_holdout"):
        assert found[1][key] == pytest.approx(found[0][key], rel=1e-6)
        np.testing.assert_allclose(found[1]["neurons"][key], found[0]["neurons"][key], rtol=1e-6)


def test_sparsities_that_differ_in_the_eighth_digit_have_files_of_their_own(run, acts, tmp_path):
    assert run("prune", acts, "-o", tmp_path / "p.safetensors", "--sparsity", "0.12345671,0.12345672")[0] == 0
    assert (tmp_path / "p-0.12345671.safetensors").exists()
    assert (tmp_path / "p-0.12345672.safetensors").exists()
