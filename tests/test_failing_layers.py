"""One layer does not stop the others: what is done is shown and kept, the bad one is named, the exit code is 1."""

import csv
import json

import pyarrow.parquet as pq
import pytest
from failing_samples import FAULTS, QUICK, WORK, W, X, broken, dump, fit, layers_of
from rawfile import read, write

import wncore.scoring
from wncore.errors import MemoryBudgetError, WriteError
from wncore.experts.files import load_experts
from wncore.failures import attempt


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", WORK)
def test_the_others_are_shown_and_kept(run, tmp_path, command, fault, place):
    names = ["h.0", "h.1", "h.2"]
    bad = names[place]
    good = [name for name in names if name != bad]
    path = dump(tmp_path / "a.safetensors", {name: FAULTS[fault] if name == bad else fit() for name in names})
    out = tmp_path / ("s.json" if command == "score" else "out.safetensors")
    code, text, err = run(command, path, "-o", out, "--json", *WORK[command])
    document = json.loads(text)
    assert code == 1
    assert layers_of(document) == good
    assert [one["name"] for one in document["failed"]] == [bad]
    (line,) = [line for line in err.splitlines() if line.startswith("wncore: error: ")]
    assert bad in line
    assert document["failed"][0]["error"] in line
    if command == "score":
        stored = json.loads(out.read_text())
    elif command == "prune":
        assert sorted(read(out)[0]) == sorted(f"{name}.weight" for name in good)
        stored = json.loads(read(out)[1]["wncore.prune"])
    else:
        assert list(load_experts(out).layers) == good
        stored = load_experts(out).document
    assert stored["failed"] == document["failed"]
    assert layers_of(stored) == good


@pytest.mark.parametrize("command", WORK)
def test_with_nothing_left_there_is_one_error_and_no_file(run, tmp_path, command):
    path, out = dump(tmp_path / "a.safetensors", {"h": FAULTS["nan in the input"]}), tmp_path / "out.safetensors"
    code, text, err = run(command, path, "-o", out, *WORK[command])
    assert (code, text) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("wncore: error: h.input holds NaN or infinity: 1 of its 1600 values")
    assert not out.exists()


@pytest.mark.parametrize("command", WORK)
def test_with_nothing_left_every_layer_is_named(run, tmp_path, command):
    path = dump(tmp_path / "a.safetensors", {"g": FAULTS["nan in the weight"], "h": FAULTS["shapes"]})
    code, text, err = run(command, path, *WORK[command])
    assert (code, text) == (1, "")
    note, line = err.splitlines()
    assert note.startswith("note: ")
    assert line.startswith("wncore: error: ")
    assert {"g.weight holds NaN", "h: input has 8 channels"} == {
        what for what in ("g.weight holds NaN", "h: input has 8 channels") if what in err
    }


@pytest.mark.parametrize("command", WORK)
def test_without_a_failure_nothing_is_said_of_any(run, tmp_path, command):
    path, out = dump(tmp_path / "a.safetensors", {"g": fit(), "h": fit()}), tmp_path / "out.safetensors"
    code, text, _ = run(command, path, "-o", out, "--json", *WORK[command])
    assert code == 0
    assert "failed" not in json.loads(text)
    assert "failed" not in read(out)[1].get(f"wncore.{command}", "")
    assert "failed" not in read(out)[1]


@pytest.mark.parametrize("command", ["prune", "expand"])
def test_the_result_is_what_it_is_without_the_layer(run, tmp_path, command):
    """To the bit, where layers share an input and its router is stored with the one that fails, or not."""
    shared = {"h.up": {"weight": W}, "h.gate": {"input": X, "weight": W + 1}, "h.low": {"weight": W - 1}}
    told = '{"h.up": "h.gate", "h.low": "h.gate"}'
    for bad in ("h.up", "h.low"):
        layers = {name: dict(parts) for name, parts in shared.items()}
        layers[bad]["weight"] = broken(layers[bad]["weight"])
        path = dump(tmp_path / f"{bad}.safetensors", layers, shared_inputs=told)
        left, out = tmp_path / f"left-{bad}.safetensors", tmp_path / f"out-{bad}.safetensors"
        assert run(command, path, "-o", out, *WORK[command])[0] == 1
        assert run(command, path, "-o", left, "--exclude", bad, *WORK[command])[0] == 0
        assert read(out)[0] == read(left)[0]
    layers = {name: dict(parts) for name, parts in shared.items()}
    layers["h.gate"]["weight"] = broken(W)  # the first: others use its router
    path = dump(tmp_path / "gate.safetensors", layers, shared_inputs=told)
    left, out = tmp_path / "left.safetensors", tmp_path / "out.safetensors"
    assert run(command, path, "-o", out, *WORK[command])[0] == 1
    assert run(command, path, "-o", left, "--exclude", "h.gate", *WORK[command])[0] == 0
    assert read(out)[0] == read(left)[0]


def test_an_owner_of_a_router_that_cannot_be_scored_takes_nobody_with_it(run, tmp_path, monkeypatch):
    from wncore.experts import layers as module

    path = dump(
        tmp_path / "a.safetensors",
        {"h.a": fit(), "h.b": {"weight": W + 1}, "h.c": {"weight": W - 1}},
        shared_inputs='{"h.b": "h.a", "h.c": "h.a"}',
    )
    out, left = tmp_path / "e.safetensors", tmp_path / "left.safetensors"
    assert run("expand", path, "-o", left, "--exclude", "h.a", *QUICK)[0] == 0
    score = module.score_layer

    def fails_for_the_first(layer, *arguments, **settings):
        if layer.name == "h.a":
            raise MemoryError
        return score(layer, *arguments, **settings)

    monkeypatch.setattr(module, "score_layer", fails_for_the_first)
    code, _, err = run("expand", path, "-o", out, *QUICK)
    assert code == 1
    assert "wncore: error: h.a: out of memory" in err
    assert list(load_experts(out).layers) == ["h.b", "h.c"]
    assert read(out)[0] == read(left)[0]
    assert run("verify", out, "--against", path)[0] == 0


@pytest.mark.parametrize("error", [MemoryError(), MemoryBudgetError("too much"), ZeroDivisionError("bug")])
def test_any_error_within_a_layer_is_that_layers(run, tmp_path, monkeypatch, error):
    path, score = dump(tmp_path / "a.safetensors", {"g": fit(), "h": fit()}), wncore.scoring.score_layer

    def fails(layer, *arguments, **settings):
        if layer.name == "g":
            raise error
        return score(layer, *arguments, **settings)

    monkeypatch.setattr("wncore.scoring.score_layer", fails)
    code, text, _ = run("score", path, "--json")
    assert code == 1
    assert layers_of(json.loads(text)) == ["h"]
    assert [one["name"] for one in json.loads(text)["failed"]] == ["g"]


def test_debug_shows_where_a_layer_failed(run, tmp_path):
    path = dump(tmp_path / "a.safetensors", {"g": FAULTS["nan in the weight"], "h": fit()})
    assert "Traceback" in run("score", path, "--debug")[2]
    assert "Traceback" not in run("score", path)[2]


@pytest.mark.parametrize("error", [WriteError("full"), BrokenPipeError(), KeyboardInterrupt()])
def test_what_is_no_layers_fault_ends_the_work(error):
    seen = []
    with pytest.raises(type(error)), attempt("l", lambda name, error: seen.append(name)):
        raise error
    assert seen == []


def test_a_full_disk_ends_the_work(run, tmp_path, monkeypatch):
    def full(array, folder):
        raise WriteError("no room")

    monkeypatch.setattr("wncore.files.spool", full)
    path, out = dump(tmp_path / "a.safetensors", {"g": fit(), "h": fit()}), tmp_path / "p.safetensors"
    code, text, err = run("prune", path, "-o", out, *WORK["prune"])
    assert (code, text, err) == (1, "", "wncore: error: no room\n")
    assert not out.exists()


@pytest.mark.parametrize(("command", "setting"), [("prune", "--sparsity"), ("expand", "--sparsity")])
def test_every_file_of_a_list_names_it(run, tmp_path, command, setting):
    path = dump(tmp_path / "a.safetensors", {"g": fit(), "h": FAULTS["nan in the input"]})
    options = [*WORK[command], setting, "0.5,0.75", "-o", tmp_path / "o.safetensors", "--json"]
    code, text, _ = run(command, path, *options)
    document = json.loads(text)
    assert code == 1
    assert [layers_of(one) for one in document["runs"]] == [["g"], ["g"]]
    for file in ("o-0.5.safetensors", "o-0.75.safetensors"):
        assert json.loads(read(tmp_path / file)[1][f"wncore.{command}"])["failed"] == document["failed"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "safetensors"])
def test_every_kind_of_table_of_scores_has_the_others(run, tmp_path, suffix):
    path, out = dump(tmp_path / "a.safetensors", {"g": fit(), "h": FAULTS["shapes"]}), tmp_path / f"s.{suffix}"
    assert run("score", path, "-o", out)[0] == 1
    if suffix == "csv":
        assert {row["layer"] for row in csv.DictReader(out.read_text().splitlines())} == {"g"}
        return
    metadata = read(out)[1] if suffix == "safetensors" else pq.read_schema(out).metadata
    told = metadata["failed"] if suffix == "safetensors" else metadata[b"wncore.failed"]
    assert [one["name"] for one in json.loads(told)] == ["h"]


class TestAgainst:
    """A second dump whose layers fail leaves scores of the first, without their change."""

    def test_a_layer_that_cannot_be_compared(self, run, tmp_path):
        first = write(tmp_path / "a.safetensors", {"g.output": X, "h.output": X, "k.output": X})
        other = write(
            tmp_path / "b.safetensors", {"g.output": 2 * X, "h.output": broken(X), "k.output": X[:, :3].copy()}
        )
        out = tmp_path / "s.csv"
        code, text, err = run("score", first, "--against", other, "--json", "-o", out)
        document = json.loads(text)
        assert code == 1
        assert [layer["against"] is None for layer in document["layers"]] == [False, True, True]
        assert document["layers"][1]["wasserstein_change"] == [None] * 8
        assert {one["name"] for one in document["failed"]} == {"h", "k"}
        assert "of the second dump: h.output holds NaN" in err
        rows = csv.DictReader(out.read_text().splitlines())
        assert {row["layer"] for row in rows if row["wasserstein_change"]} == {"g"}
        assert run("score", first, "--against", other)[0] == 1

    def test_verify_checks_the_other_layers(self, run, tmp_path):
        path, out = dump(tmp_path / "a.safetensors", {"g": fit(), "h": fit()}), tmp_path / "e.safetensors"
        assert run("expand", path, "-o", out, *QUICK)[0] == 0
        dump(path, {"g": FAULTS["shapes"], "h": fit()})
        code, text, _ = run("verify", out, "--against", path, "--json")
        checks = json.loads(text)["checks"]
        assert code == 1
        assert {check["layer"] for check in checks if check["passed"] is False} <= {"g", ""}
        assert len([check for check in checks if check["layer"] == "h" and check["passed"]]) > 8
