"""`wncore prune MODEL`, as a user meets it."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from safetensors.numpy import load_file

TINY = Path(__file__).parent.parent / "data" / "tiny-llm"
TEXT, OTHER = TINY / "calibration.txt", TINY / "heldout.txt"
FEW = ("--text", TEXT, "--windows", "8", "--length", "64")
MLP = ("--layer", "*.layers.1.mlp.*")
QUICK = ("--method", "wanda", "--no-resolve")

pytestmark = pytest.mark.usefixtures("one_thread")


def pruned(run, *args):
    code, out, err = run("prune", TINY, *FEW, *args, "--json", "--quiet")
    assert (code, err) == (0, "")
    return json.loads(out)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_folder_is_written_and_judged(run, tmp_path):
    out = tmp_path / "pruned"
    found = pruned(run, *MLP, "-o", out, "--evaluate", OTHER, "--sparsity", "0.7")
    assert (found["schema"], found["pattern"], found["calibration_order"], found["seed"]) == (
        "wncore.prune/1", "0.7", "published", 0)  # fmt: skip
    assert (found["windows"], found["length"], found["source"], found["output"]) == (8, 64, str(TINY), str(out))
    before, after = weights(TINY), weights(out)
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert len(layers) == 3
    changed = {one["tensor"]: one for one in found["changed"]}
    assert set(changed) == {f"{name}.weight" for name in layers}
    for name, value in before.items():
        if name in changed:
            assert np.count_nonzero(after[name] == 0) == changed[name]["zeros"] == 7 * value.size // 10
            assert layers[name.removesuffix(".weight")]["zeros"] == changed[name]["zeros"]
        else:
            assert value.tobytes() == after[name].tobytes()
    code, judged, _ = run("eval", out, "--text", OTHER, "--length", "64", "--json", "--quiet")
    assert code == 0
    (evaluation,) = found["evaluations"]
    assert evaluation["text"] == str(OTHER)
    assert evaluation["perplexity"] == pytest.approx(json.loads(judged)["perplexity"], rel=1e-6)
    assert {"predicted", "measured"} <= found["resources"].keys()
    assert {layer["rank"] for layer in found["layers"]} == {None}
    assert all(160 <= layer["rank"] <= 416 for layer in pruned(run, *MLP, *QUICK, "--ranks")["layers"])


def test_the_mlp_is_the_default_and_nothing_is_kept_without_an_output(run, tmp_path):
    before = weights(TINY)
    code, out, err = run("prune", TINY, *FEW, *QUICK)
    assert code == 0
    assert "12 layers, 72.2% of the parameters" in out
    assert "50.0000% zeros" in out
    assert "note: the pruned model was not kept; -o FOLDER keeps it" in err
    assert "--evaluate FILE judges the model by the perplexity of another" in err
    assert "128 calibration tokens" not in err
    assert all(value.tobytes() == before[name].tobytes() for name, value in weights(TINY).items())


def test_the_dump_is_pruned_as_the_model(run, tmp_path):
    out, dump, kept = tmp_path / "pruned", tmp_path / "dump", tmp_path / "kept.safetensors"
    pruned(run, *MLP, "-o", out, "--calibration-order", "dense", "--seed", "3")
    assert run("capture", TINY, *FEW, *MLP, "-o", dump, "--seed", "3", "--part", "input", "--part", "weight")[0] == 0
    assert run("prune", dump, "-o", kept, "--no-wasserstein")[0] == 0
    after = weights(out)
    for name, value in load_file(kept).items():
        assert value.dtype == after[name].dtype
        assert value.tobytes() == after[name].tobytes()


def test_windows_lie_at_random_places_by_the_seed(run):
    def errors(*options):
        return [layer["relative_error"] for layer in pruned(run, *MLP, *QUICK, *options)["layers"]]

    assert errors() == errors("--seed", "0") != errors("--seed", "1")


def test_a_dry_run_writes_nothing(run, tmp_path):
    found = pruned(run, "-o", tmp_path / "pruned", "--dry-run", "--evaluate", OTHER)
    assert (found["dry_run"], len(found["layers"])) == (True, 12)
    assert found["resources"]["disk"] == sum(entry.stat().st_size for entry in TINY.iterdir())
    assert found["resources"]["seconds"]["predicted"] > 0
    assert {"products", "products, judging", "pruning"} <= found["resources"]["seconds"]["steps"].keys()
    assert list(tmp_path.iterdir()) == []
    code, out, _ = run("prune", TINY, *FEW, "--dry-run")
    assert code == 0
    assert "would prune 12 layers, 72.2%" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--plot", "pictures"], "--plot is for dumps"),
        (["--force"], "--force has no effect on models"),
        (["--sparsity", "0.5,0.7"], "one --sparsity at a time"),
        (["--strict"], "512 calibration tokens for 416 inputs|461 calibration tokens|448 calibration tokens"),
        (["-o", TINY / "pruned"], "is in the folder that is read"),
        (["--evaluate", "missing.txt"], "missing.txt cannot be read"),
        (["--exclude", "*"], "leaves none of"),
    ],
    ids=str,
)
def test_errors(run, tmp_path, monkeypatch, options, says):
    import re

    monkeypatch.chdir(tmp_path)
    few = [*FEW[:3], "2", *FEW[4:]] if options == ["--strict"] else FEW
    says = "calibration tokens for 160 inputs" if options == ["--strict"] else says
    code, _, err = run("prune", TINY, *few, *QUICK, *options)
    assert code == 1
    assert re.search(says, err), err
    assert list(tmp_path.iterdir()) == []
    assert not (TINY / "pruned").exists()


def test_an_output_that_exists_is_left_alone(run, tmp_path):
    code, _, err = run("prune", TINY, *FEW, "-o", tmp_path)
    assert (code, "exists already" in err) == (1, True)


def test_options_of_models_are_refused_for_dumps(run, tmp_path):
    dump = tmp_path / "dump"
    assert run("capture", TINY, *FEW, *MLP, "-o", dump)[0] == 0
    for option in (["--evaluate", OTHER], ["--calibration-order", "dense"], ["--seed", "1"], ["--text", OTHER]):
        code, _, err = run("prune", dump, *option)
        assert (code, f"{option[0]} is for models" in err) == (1, True), err
