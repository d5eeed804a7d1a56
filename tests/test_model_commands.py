"""`wncore score MODEL` and `wncore capture`, as a user meets them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

TINY = Path(__file__).parent.parent / "data" / "tiny-llm"
TEXT = TINY / "heldout.txt"
FEW = ("--text", TEXT, "--windows", "2", "--length", "64", "--quiet")
MLP = ("--layer", "*.layers.1.mlp.*")

pytestmark = pytest.mark.usefixtures("one_thread")


def scored(run, *args):
    code, out, err = run("score", *args, "--json", "--pairs", "200")
    assert (code, err) == (0, "")
    return json.loads(out)


def by_name(document):
    drop = ("sinks",)
    return {layer["name"]: {k: v for k, v in layer.items() if k not in drop} for layer in document["layers"]}


def test_a_model_is_scored_as_its_capture(run, tmp_path):
    whole = scored(run, TINY, *FEW, *MLP)
    assert run("capture", TINY, *FEW, *MLP, "-o", tmp_path / "dump")[0] == 0
    captured = scored(run, tmp_path / "dump", "--streaming", "--quiet")
    assert by_name(captured) == by_name(whole)
    for memory in ("1MiB", "64MiB"):
        assert scored(run, TINY, *FEW, *MLP, "--memory", memory)["layers"] == whole["layers"]
    assert whole["coverage"] == pytest.approx(0.25 * 3 * 416 / (3 * 416 + 480), abs=0.01)
    assert (whole["windows"], whole["length"], whole["dtype"], whole["text"]) == (2, 64, "float32", str(TEXT))
    assert {layer["tokens"] for layer in whole["layers"]} == {128}
    assert all(layer["sinks"] == 0 for layer in whole["layers"])


def test_exact_layers_are_exact(run):
    name = "model.layers.1.mlp.up_proj"
    document = scored(run, TINY, *FEW, *MLP, "--exact", "*.up_proj")
    exact, other = by_name(document)[name], by_name(scored(run, TINY, *FEW, "--layer", name))[name]
    assert exact["wasserstein_low"] == exact["wasserstein_high"]
    low, high, value = (
        np.array(column) for column in (other["wasserstein_low"], other["wasserstein_high"], exact["wasserstein"])
    )
    assert ((low <= value + 1e-6) & (value <= high + 1e-6)).all()
    assert by_name(document)["model.layers.1.mlp.gate_proj"]["wasserstein_low"] != exact["wasserstein_low"]


def test_groups_of_layers(run):
    names = {}
    for group in ("mlp", "attention", "all"):
        code, out, _ = run("score", TINY, *FEW, "--layer", group, "--dry-run", "--json")
        assert code == 0
        names[group] = json.loads(out)["layers"]
    assert len(names["mlp"]) == 12
    assert len(names["attention"]) == 16
    assert sorted(names["all"]) == sorted(names["mlp"] + names["attention"])
    _, out, _ = run("score", TINY, *FEW, "--exclude", "attention", "--dry-run", "--json")
    assert json.loads(out)["layers"] == names["mlp"]


def test_resources_are_on_stdout_and_not_in_files(run, tmp_path):
    code, out, _ = run("score", TINY, *FEW, *MLP, "--pairs", "0", "--json", "-o", tmp_path / "scores.json")
    assert code == 0
    document, written = json.loads(out), json.loads((tmp_path / "scores.json").read_text())
    assert document.pop("resources").keys() == {"disk", "device", "at_start", "predicted", "measured", "seconds"}
    assert document == written
    code, out, _ = run("score", TINY, *FEW, *MLP, "--pairs", "0", "--top", "1")
    assert code == 0
    assert "3 layers, " in out
    assert "on 2 windows of 64 tokens, forward in float32" in out
    assert "predicted  measured" in out


def test_dry_runs_write_nothing(run, tmp_path):
    code, out, _ = run("capture", TINY, *FEW, *MLP, "-o", tmp_path / "dump", "--dry-run", "--json")
    assert code == 0
    promised = json.loads(out)["bytes"]
    assert not (tmp_path / "dump").exists()
    code, out, _ = run("capture", TINY, *FEW, *MLP, "-o", tmp_path / "dump", "--json")
    assert code == 0
    assert json.loads(out)["bytes"] == promised
    sizes = [path.stat().st_size for path in (tmp_path / "dump").glob("*.safetensors")]
    assert promised <= sum(sizes) <= promised + 8192
    assert run("score", TINY, *FEW, "--dry-run")[1].startswith("would score 28 layers, 100.0%")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("score", TINY), "is a model, and models are looked at while they read; name a text file with --text"),
        (("score", TINY, "--text", "none.txt"), "none.txt cannot be read: No such file"),
        (
            ("score", TINY, *FEW, "--layer", "*.nothing"),
            "matches none of the 28 layers: model.layers.0.self_attn.q_proj",
        ),
        (("score", TINY, *FEW, "--length", "300"), "takes at most 256 tokens"),
        (("score", TINY, TINY, *FEW), "a model is read alone"),
        (("score", TINY, *FEW, *MLP, "--skip-tokens", "64", "-o", "z.csv"), "no layer has 2 tokens that count"),
        (("score", TINY, *FEW, "--plot", "pictures"), "--plot is for dumps; capture the model's activations first"),
        (("score", TINY, *FEW, "--against", "x"), "--against is for dumps"),
        (("score", "acts.safetensors", "--windows", "2"), "--windows is for models, and acts.safetensors is none"),
        (("score", "acts.safetensors", "--dry-run"), "--dry-run is for models"),
        (("capture", "acts.safetensors", "--text", TEXT, "-o", "dump"), "give the folder of a Hugging Face model"),
        (("capture", TINY, *FEW, "-o", "taken"), "taken exists already; choose another name, or remove it"),
        (("capture", TINY, *FEW, "-o", "no/dump"), "there is no folder no to write dump into"),
        (("score", "empty", *FEW), "safetensors"),
        (("score", "mute", *FEW), "has no tokenizer"),
        (
            ("score", TINY, "--text", "short.txt", "--quiet"),
            "and a window 256; give a longer --text or a smaller --length",
        ),
    ],
)
def test_errors(run, tmp_path, monkeypatch, command, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "short.txt").write_text("Too short.")
    for name, left in (("empty", "model.safetensors"), ("mute", "tokenizer")):
        shutil.copytree(
            TINY, tmp_path / name, ignore=lambda _, names, left=left: [n for n in names if n.startswith(left)]
        )
    from wncore.dumps.write import write_dump

    write_dump("acts.safetensors", {"fc.output": np.ones((4, 3), np.float32)})
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert says in err
    assert "\n" not in err.strip()


def test_nothing_is_left_of_a_capture_that_is_interrupted(run, tmp_path, monkeypatch):
    from wncore_torch.model import written

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(written.OnDisk, "add", interrupt)
    code, _, err = run("capture", TINY, *FEW, *MLP, "-o", tmp_path / "dump")
    assert code == 130
    assert "interrupted" in err
    assert not list(tmp_path.iterdir())
