"""`wncore eval` on the shipped model: perplexity by transformers and by the harness' definition; what is printed."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import plain_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from wncore.evaluation import Evaluation

TINY = Path(__file__).parent.parent / "data" / "tiny-llm"
HELDOUT = TINY / "heldout.txt"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture(scope="module")
def plain():
    return plain_model(TINY)


@pytest.fixture(scope="module")
def tokens():
    return AutoTokenizer.from_pretrained(TINY)(HELDOUT.read_text("utf-8"), verbose=False)["input_ids"]


def document(run, *arguments):
    code, out, err = run("eval", TINY, "--text", HELDOUT, "--json", *arguments)
    assert code == 0, err
    assert err == ""
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


@torch.no_grad()
def test_the_shipped_model_by_transformers_own_loss(run, plain, tokens):
    found = document(run)
    rows = torch.tensor(tokens[: len(tokens) // 256 * 256]).reshape(-1, 256)
    losses = [plain(input_ids=part, labels=part, use_cache=False).loss.item() * len(part) for part in rows.split(16)]
    mean = sum(losses) / len(rows)
    assert math.isclose(found["perplexity"], math.exp(mean), rel_tol=1e-5)
    assert 46 < found["perplexity"] < 48  # of 2,048 tokens
    assert math.isclose(found["bits_per_byte"], mean / math.log(2) * len(tokens) / HELDOUT.stat().st_size, rel_tol=1e-6)
    asked = {"tokens": 255 * len(rows), "windows": len(rows), "length": 256, "bos": False, "dtype": "float32"}
    assert found | asked | {"convention": "windows", "word_perplexity": None, "schema": "wncore.eval/1"} == found
    assert (found["source"], found["text"], found["dry_run"]) == (str(TINY), str(HELDOUT), False)


@torch.no_grad()
def test_the_harness_convention_by_its_definition(run, plain, tokens, tmp_path):
    """Every token is predicted: from <|endoftext|> the first, then windows of 256 that begin with the token before.

    The last window is whole, and only what is new in it is scored (get_rolling_token_windows, make_disjoint_window).
    """
    text = "\n".join(HELDOUT.read_text("utf-8").split("\n")[:300])
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    ids = AutoTokenizer.from_pretrained(TINY)(text, verbose=False)["input_ids"]
    total, count = 0.0, len(ids)
    assert count % 256
    for begin in range(0, count, 256):
        fresh = min(256, count - begin)
        end = begin + fresh
        given = ([0, *ids])[max(0, end - 256) : end]
        logs = plain(input_ids=torch.tensor([given]), use_cache=False).logits[0].log_softmax(-1)[-fresh:]
        total -= logs.gather(1, torch.tensor(ids[begin:end])[:, None]).double().sum().item()
    code, out, _ = run("eval", TINY, "--text", tmp_path / "t.txt", "--convention", "harness", "--json", "--batch", 3)
    found = json.loads(out)
    assert code == 0
    assert found["tokens"] == count
    assert math.isclose(found["perplexity"], math.exp(total / count), rel_tol=1e-4)
    assert math.isclose(found["word_perplexity"], math.exp(total / len(re.split(r"\s+", text))), rel_tol=1e-3)
    assert math.isclose(found["bits_per_byte"], total / math.log(2) / len(text.encode()), rel_tol=1e-5)


def test_options_reach_the_model(run):
    found = document(run, "--windows", 3, "--length", 64, "--dtype", "float64", "--batch", 2, "--threads", 1)
    assert (found["windows"], found["length"], found["tokens"], found["dtype"]) == (3, 64, 189, "float64")
    single = document(run, "--windows", 3, "--length", 64)
    assert math.isclose(single["perplexity"], found["perplexity"], rel_tol=1e-5)
    assert single["perplexity"] != found["perplexity"]
    half = document(run, "--windows", 3, "--length", 64, "--dtype", "bfloat16")
    assert math.isclose(half["perplexity"], found["perplexity"], rel_tol=0.02)


def test_several_texts_are_runs_of_one_document(run):
    found = document(run, "--text", TINY / "calibration.txt", "--windows", 2)
    assert [one["text"] for one in found["runs"]] == [str(HELDOUT), str(TINY / "calibration.txt")]
    alone = document(run, "--windows", 2)
    assert found["runs"][0]["perplexity"] == alone["perplexity"] != found["runs"][1]["perplexity"]
    assert "perplexity" not in found


def test_the_table(run):
    code, out, err = run("eval", TINY, "--text", HELDOUT, "--windows", 2, "--convention", "harness")
    assert (code, err) == (0, "")
    head, row, empty, memory, host = out.splitlines()
    heading = "text perplexity by words bits per byte tokens windows length bos dtype convention"
    assert " ".join(head.split()) == heading
    assert row.split()[0] == str(HELDOUT)
    assert row.split()[2] == "-"  # not every token was scored
    assert row.split()[-6:] == ["512", "2", "256", "no", "float32", "harness"]
    assert memory.split() == ["peak", "memory", "at", "the", "start", "predicted", "measured"]
    assert (empty, host.split()[0]) == ("", "host")
    assert "by words" not in run("eval", TINY, "--text", HELDOUT, "--windows", 2)[1]


def test_a_file_holds_the_result_without_resources(run, tmp_path):
    out = tmp_path / "r.json"
    printed = document(run, "--windows", 2, "-o", out)
    assert json.loads(out.read_text()) == {key: value for key, value in printed.items() if key != "resources"}
    code, _, err = run("eval", TINY, "--text", HELDOUT, "--windows", 2, "-o", out)
    assert code == 1
    assert "r.json exists already; choose another name, or replace it with --force" in err
    assert run("eval", TINY, "--text", HELDOUT, "--windows", 1, "-o", out, "--force")[0] == 0
    assert json.loads(out.read_text())["windows"] == 1


def test_a_perplexity_beyond_all_numbers_is_null():
    plan = {"tokens": 1, "windows": 1, "length": 2, "bos": False, "dtype": "float32", "convention": "windows"}
    found = Evaluation(**plan, perplexity=math.inf, bits_per_byte=2000.0, word_perplexity=None).document()
    assert (found["perplexity"], found["word_perplexity"], found["bits_per_byte"]) == (None, None, 2000.0)


def test_a_dry_run_reads_no_weight(run, tiny):
    """Its weights are NaN, which a run says, and a dry run cannot know."""
    tensors = load_file(tiny / "model.safetensors")
    save_file({name: value * math.nan for name, value in tensors.items()}, tiny / "model.safetensors", {"format": "pt"})
    command = ["eval", tiny, "--text", HELDOUT, "--windows", 4]
    code, out, err = run(*command, "--dry-run", "--json", "-o", tiny / "r.json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["dry_run"], found["tokens"], found["windows"], found["length"]) == (True, 1020, 4, 256)
    assert not {"perplexity", "bits_per_byte"} & found.keys()
    assert found["resources"]["measured"] is None
    assert found["resources"]["predicted"]["host"] > found["resources"]["at_start"]["host"] > 2**26
    assert found["resources"]["disk"] == 0
    assert not (tiny / "r.json").exists()
    table = run(*command, "--dry-run")[1].splitlines()
    assert table[0].startswith("would be judged")
    assert "disk: 0 MiB" in table
    assert run(*command)[2].strip() == (
        "wncore: error: the model gives NaN for 1020 of 1020 tokens; run it in a wider type, with --dtype float32"
    )


def test_a_dry_run_reads_headers_only(run, tiny):
    """A file of zeros behind the header would do, and none of it is touched."""
    file = tiny / "model.safetensors"
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    with file.open("wb") as out:
        out.write(data[:header])
        out.truncate(len(data))
    assert run("eval", tiny, "--text", HELDOUT, "--dry-run")[0] == 0


def test_progress_by_batch_and_block():
    from wncore_torch.model import HuggingFace

    ticks, names = [], []
    work = HuggingFace.evaluate(TINY, [HELDOUT, HELDOUT], windows=5, batch=2, length=32, device="cpu")
    assert len(list(work.run(ticks.append, names.append))) == 2
    assert work.steps == sum(ticks) == 2 * 3 * (4 + 1)
    assert names == 2 * [*(f"model.layers.{i}" for i in range(4)), "logits"]
    assert max(ticks) == 1
