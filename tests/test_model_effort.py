"""The time that work on a model takes, foretold: amounts by hand and by torch's own counter; no time is asserted."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import make
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from wncore import effort, scoring_effort
from wncore.backend import get_backend
from wncore.effort import Step, measure
from wncore_torch.model import effort as forward
from wncore_torch.model.opening import open_folder

TINY = Path(__file__).parent.parent / "data" / "tiny-llm"
TEXT = TINY / "heldout.txt"
WEIGHTS = 4 * (2 * 160 * 160 + 2 * 80 * 160 + 3 * 160 * 416)
"""Of the shipped model's four blocks: q and o, k and v of half as many heads, the three of the MLP."""


@pytest.fixture
def hundred_a_second(monkeypatch):
    """Let every trial find that 100 units are done in a second."""
    for module in (effort, scoring_effort, forward):
        monkeypatch.setattr(module, "measure", lambda prepare, most: 100.0)


def test_a_forward_is_counted_by_hand(hundred_a_second):
    folder = open_folder(TINY)
    assert forward.products(folder, 1024) == 2 * 1024 * WEIGHTS == 2264924160
    assert forward.products(folder, 1024, head=True) == 2 * 1024 * (WEIGHTS + 2048 * 160)
    assert forward.attention(folder, 1024, 256) == 4 * 1024 * 256 * 160 * 4
    products, attention = forward.forward_effort(folder, 1024, batch=4, length=256)
    assert products.seconds == 2264924160 / (100 * 2 * 416 * 160)  # a unit is a row through the largest matrix
    assert attention.seconds == 4 * 4 * 4 / 100  # windows, blocks and heads; a unit is a head of a window


@pytest.mark.parametrize("family", ["llama", "gpt2", "pythia", "opt", "mixtral"])
def test_products_are_those_that_torch_counts(tmp_path, family):
    path = make(tmp_path / "model", family)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, experts_implementation="eager").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(16)[None], use_cache=False)
    counted = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    found = counted.get("aten.mm", 0) + counted.get("aten.addmm", 0)
    assert forward.products(open_folder(path), 16, head=True) == found


def test_a_trial_is_made_larger_until_it_takes_long_enough(monkeypatch):
    clock, done = [0.0], []

    def prepare(count):
        def work():
            clock[0] += count / 100 if done else 1000.0  # compilers begin
            done.append(count)

        return work

    monkeypatch.setattr(effort, "perf_counter", lambda: clock[0])
    assert measure(prepare, 1000) == pytest.approx(100)
    assert done == [1, 1, 2, 4, 8]
    done[:] = [0]
    assert measure(prepare, 3) == pytest.approx(100)
    assert done == [0, 1, 1, 2, 3]


def test_scoring_is_counted_by_hand(hundred_a_second):
    steps = [scoring_effort.distance_effort(trial, 1000, 50, "streaming")]
    steps += scoring_effort.pairs_effort(trial, 1000, 50, [8, 16], pairs=400)
    assert [step.amount for step in steps] == [1000 * 50, 2 * 400 * 24, 2 * 400 * 50]
    assert [step.seconds for step in steps] == [0.5, 0.24, 0.5]  # units are neurons and channels
    capped = scoring_effort.pairs_effort(trial, 100, 50, [8], pairs=400)
    assert [step.amount for step in capped] == [2 * 50 * 8, 2 * 50 * 50]
    assert scoring_effort.pairs_effort(trial, 1000, 50, [8], pairs=0) == []


def trial(rows, neurons, inputs):
    return forward.trial_layer(open_folder(TINY), get_backend("numpy"), rows, neurons, inputs)


def test_trials_run_on_layers_of_the_sizes_asked_for():
    one = trial(12, 3, 5)
    assert (one.layer.output.rows, one.layer.neurons, one.input.columns, one.tokens.count) == (12, 3, 5, 12)
    assert scoring_effort.distance_effort(trial, 64, 3, "exact").rate > 0
    assert all(step.rate > 0 for step in scoring_effort.pairs_effort(trial, 64, 3, [5], 20))


def test_writing_leaves_nothing(tmp_path):
    step = effort.writing(tmp_path, 3 * 2**20)
    assert (step.name, step.amount, step.unit) == ("writing", 3 * 2**20, "bytes")
    assert step.rate > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (("eval", TINY), ["products", "attention"]),
        (("capture", TINY, "-o", "dump"), ["products", "attention", "writing"]),
        (("score", TINY, "--pairs", "0"), ["products", "attention", "streaming distances"]),
        (
            ("score", TINY, "--exact", "*.0.mlp.*"),
            ["products", "attention", "streaming distances", "exact distances", "inputs of pairs", "outputs of pairs"],
        ),
    ],
)
def test_dry_runs_say_what_takes_time(run, tmp_path, monkeypatch, hundred_a_second, command, names):
    monkeypatch.chdir(tmp_path)
    options = ("--text", TEXT, "--windows", "2", "--length", "64", "--dry-run", "--quiet")
    code, out, err = run(*command, *options, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["resources"]["seconds"]
    assert list(found["steps"]) == names
    assert found["predicted"] == pytest.approx(sum(found["steps"].values()))
    _, out, _ = run(*command, *options)
    assert "an estimate by trials on this machine; reading weights is not counted" in out
    assert all(f"\n{name}  " in out for name in names)


def test_steps_say_what_they_take():
    assert Step("x", 10, "things", 4).seconds == 2.5
    assert effort.total([Step("x", 10, "things", 4), Step("y", 1, "things", 2)]) == 3.0
