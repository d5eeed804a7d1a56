"""The peak that is foretold, held against the peak that the system measured, in processes of their own."""

import json
import shutil
import subprocess
import sys
from mmap import mmap
from pathlib import Path
from weakref import ref

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import FAMILIES, edit_tensors, make

from wncore.resources import Memory, forget_highest, highest, resident
from wncore_torch.model import held as memory_of_blocks
from wncore_torch.model import opened
from wncore_torch.model.blocks import find_blocks
from wncore_torch.model.forecast import heaviest_block, load_of, streaming, waiting
from wncore_torch.model.opening import open_folder
from wncore_torch.model.parameters import names_below
from wncore_torch.model.stream import Block

TINY = Path(__file__).parent.parent / "data" / "tiny-llm"
SHAPE = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 4}
SHAPE |= {"num_hidden_layers": 2}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a peak begin anew")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def larger(request, tmp_path_factory):
    """A random Llama whose blocks have 3 million parameters; the shipped one is too small to measure."""
    path = tmp_path_factory.mktemp("larger") / "model"
    make(path, "llama", vocab_size=2048, max_position_embeddings=512, dtype=request.param, **SHAPE)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, path)
    return path


@LINUX
@pytest.mark.parametrize(
    "options",
    [
        ["--batch", "32", "--windows", "448", "--length", "64"],  # hidden states, and a block's weights
        ["--batch", "72", "--windows", "72", "--length", "128"],  # what a block computes, and logits
    ],
)
@pytest.mark.parametrize("verb", ["eval", "capture"])
def test_the_peak_is_as_foretold(larger, tmp_path, verb, options):
    command = [sys.executable, "-c", "import wncore_cli; wncore_cli.run()", verb, str(larger)]
    command += ["-o", str(tmp_path / "dump")] if verb == "capture" else []
    command += ["--text", str(TINY / "heldout.txt"), "--json", "--threads", "1", "--device", "cpu", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["resources"]
    predicted, measured = (found[name]["host"] - found["at_start"]["host"] for name in ("predicted", "measured"))
    assert measured > 2**25
    assert abs(predicted - measured) <= 0.2 * measured, (predicted / 2**20, measured / 2**20)


@LINUX
def test_the_peak_of_many_blocks_is_that_of_few(tmp_path):
    """What blocks leave lies in holes of the heap: 24 of them took 73 MiB, where 47 are foretold and 3 take."""
    path = make(tmp_path / "model", "llama", vocab_size=2048, dtype="bfloat16", **SHAPE | {"num_hidden_layers": 24})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, path)
    command = [sys.executable, "-c", "import wncore_cli; wncore_cli.run()", "eval", str(path), "--device", "cpu"]
    command += ["--text", str(TINY / "heldout.txt"), "--json", "--windows", "32", "--length", "64", "--batch", "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["resources"]
    predicted, measured = (found[name]["host"] - found["at_start"]["host"] for name in ("predicted", "measured"))
    assert 2**25 < measured <= 1.3 * predicted, (predicted / 2**20, measured / 2**20)


@LINUX
def test_the_system_tells_a_peak():
    forget_highest()
    before = resident()
    block = mmap(-1, 2**26)  # fresh memory, whatever the allocator kept
    block[:: 2**12] = b"x" * len(range(0, 2**26, 2**12))
    assert resident() - before > 0.9 * 2**26
    block.close()
    assert highest() - before > 0.9 * 2**26
    forget_highest()
    assert highest() - before < 0.5 * 2**26


def test_systems_that_do_not_tell_have_the_peak_of_the_process(monkeypatch, tmp_path):
    wanted = highest()
    monkeypatch.setattr("wncore.resources.STATUS", tmp_path / "nothing")
    monkeypatch.setattr("wncore.resources.FORGET", tmp_path / "nothing" / "either")
    forget_highest()
    assert resident() == highest() >= 0.5 * wanted


def test_a_device_has_a_line_and_numbers_of_its_own():
    from types import SimpleNamespace

    from wncore_cli.resource_tables import resources_document, resources_table

    work = SimpleNamespace(device="cuda", base=Memory(2**30, 2**23), predicted=Memory(3 * 2**29, 2**31))
    table = [line.split() for line in resources_table(work, Memory(2**30, 2**30)).splitlines()]
    assert table[1] == ["host", "1.00", "GiB", "1.50", "GiB", "1.00", "GiB"]
    assert table[2] == ["cuda", "8", "MiB", "2.00", "GiB", "1.00", "GiB"]
    found = resources_document(work, None)["resources"]
    assert found["predicted"] == {"host": 3 * 2**29, "device": 2**31}
    assert (found["measured"], found["disk"], found["device"]) == (None, 0, "cuda")


def test_memory_is_added_or_held_one_after_the_other():
    assert Memory(1, 2) + Memory(3, 4) == Memory(4, 6)
    assert Memory(1, 5) | Memory(3, 4) == Memory(3, 5)


def test_parameters_are_counted_to_the_byte(made):
    folder = open_folder(made)
    block = names_below(folder.model, "model.layers.1")
    numbers = sum(folder.model.get_parameter(name).numel() for name in block)
    load = load_of(folder, block)
    assert (load.reading, load.held) == (Memory(4 * numbers), Memory(4 * numbers))  # the file's own pages
    wide = load_of(open_folder(made, dtype="float64"), block)
    assert (wide.reading, wide.held) == (Memory(4 * numbers + 8 * numbers), Memory(8 * numbers))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_foretold(tmp_path, family):
    folder = open_folder(make(tmp_path / "model", family))
    _, blocks = find_blocks(folder.model)
    sizes = [4 * sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    assert max(sizes) == heaviest_block(folder).held.host
    hidden = waiting(folder, 640, torch.device("cpu"))
    assert hidden == Memory(640 * 4 * 32)
    assert streaming(folder, 640, 4, 16, torch.device("cpu")).host > max(sizes) + hidden.host


def test_tied_parameters_are_counted_once(tmp_path):
    path = make(tmp_path / "model", "llama", tie_word_embeddings=True)
    folder = open_folder(path)
    both = ["model.embed_tokens.weight", "lm_head.weight"]
    assert load_of(folder, both).held == load_of(folder, both[:1]).held == Memory(4 * 128 * 32)
    edit_tensors(path, lambda old: old | {"lm_head.weight": old["model.embed_tokens.weight"].clone()})
    assert load_of(open_folder(path), both).held == Memory(4 * 128 * 32)
    edit_tensors(path, lambda old: old | {"lm_head.weight": torch.zeros_like(old["model.embed_tokens.weight"])})
    assert load_of(open_folder(path), both).held == Memory(2 * 4 * 128 * 32)


def test_experts_are_read_and_fused(tmp_path):
    folder = open_folder(make(tmp_path / "model", "mixtral"))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    size = 4 * folder.model.get_parameter(name).numel()
    load = load_of(folder, [name])
    assert (load.reading, load.held) == (Memory(2 * size), Memory(size))


@pytest.mark.parametrize("verb", ["score", "prune"])
def test_inputs_of_one_block_are_gone_before_the_next_is_read(run, monkeypatch, verb):
    """They are the most of what a GPU holds, and would be there twice."""
    matrix, pass_on, held, found = opened.matrix, Block._pass, [], []

    def watched(name, values):
        made = matrix(name, values)
        held.extend([] if name.endswith("weight") else [ref(made)])
        return made

    def counted(self, *args, **how):
        found.append(sum(one() is not None for one in held))
        return pass_on(self, *args, **how)

    for module in (opened, memory_of_blocks):
        monkeypatch.setattr(module, "matrix", watched)
    monkeypatch.setattr(Block, "_pass", counted)
    code, _, err = run(verb, TINY, "--text", TINY / "heldout.txt", "--windows", 2, "--length", 64, "--device", "cpu")
    assert code == 0, err
    assert min(len(held), len(found)) >= 4
    assert not any(found)
