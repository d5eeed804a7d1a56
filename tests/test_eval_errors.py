"""How `wncore eval` fails: what is wrong, what there is, what to type."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch

from wncore.errors import MemoryBudgetError
from wncore.resources import Memory

TINY = Path(__file__).parent.parent / "data" / "tiny-llm"
HELDOUT = TINY / "heldout.txt"
GIVE = "; give the folder of a Hugging Face model, downloaded before"


@pytest.fixture
def tiny(tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    return tmp_path / "tiny"


def refused(run, *arguments):
    code, out, err = run("eval", *arguments)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    return line.removeprefix("wncore: error: ")


def test_paths_that_are_no_model(run, tmp_path, dump):
    nothing = tmp_path / "nothing"
    assert refused(run, nothing, "--text", HELDOUT) == f"{nothing} does not exist{GIVE}"
    assert refused(run, dump, "--text", HELDOUT) == f"{dump} is a file, and no model folder{GIVE}"
    found = refused(run, tmp_path, "--text", HELDOUT)
    there = "is a dump of activations and no model folder, as it has no config.json (there is acts.safetensors)"
    assert found == f"{tmp_path} {there}{GIVE}"
    nothing.mkdir()
    found = refused(run, nothing, "--text", HELDOUT)
    assert found == f"{nothing} is no model folder, as it has no config.json (there is nothing){GIVE}"


def test_a_folder_without_safetensors(run, tiny):
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    message = refused(run, tiny, "--text", HELDOUT)
    assert "has neither model.safetensors nor model.safetensors.index.json; there is " in message
    assert message.endswith("Pickled weights are never read, convert them to safetensors first")


def test_a_folder_without_a_tokenizer(run, tiny):
    (tiny / "tokenizer.json").unlink()
    message = refused(run, tiny, "--text", HELDOUT)
    assert "has no tokenizer, there is " in message
    assert message.endswith("; add the tokenizer's files, tokenizer.json for one")


def test_texts(run, tmp_path):
    short = tmp_path / "t.txt"
    assert refused(run, TINY, "--text", short) == (
        f"{short} cannot be read: No such file or directory; name a text file with --text"
    )
    short.write_text("Too short for a window.")
    message = refused(run, TINY, "--text", short)
    assert message == "the text has 8 tokens and a window 256; give a longer --text or a smaller --length"
    short.write_bytes(b"\xff")
    assert "is no UTF-8 text" in refused(run, TINY, "--text", short)


def test_options(run, tmp_path):
    assert "the model takes at most 256 tokens; got 300, give fewer with --length" in refused(
        run, TINY, "--text", HELDOUT, "--length", 300
    )
    assert "the tokenizer has no token that begins a text; leave --bos yes out" in refused(
        run, TINY, "--text", HELDOUT, "--bos", "yes"
    )
    assert "torch cannot use the device 'abacus'" in refused(run, TINY, "--text", HELDOUT, "--device", "abacus")
    csv = tmp_path / "r.csv"
    message = f"{csv}: the extension '.csv' is unknown here; perplexity is written to a .json file"
    assert refused(run, TINY, "--text", HELDOUT, "-o", csv) == message
    for arguments, said in (
        ([TINY], "Missing option '--text'"),
        ([TINY, "--text", ""], "an empty argument names no file"),
        ([TINY, "--text", HELDOUT, "--dtype", "int8"], "'int8' is not one of"),
        ([TINY, "--text", HELDOUT, "--windows", 0], "0 is not in the range"),
        ([TINY, "--text", HELDOUT, "--length", 1], "1 is not in the range"),
    ):
        code, _, err = run("eval", *arguments)
        assert code == 2
        assert said in err


def test_an_interrupt(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("wncore_torch.model.evaluate.cross_entropy", interrupted)
    code, out, err = run("eval", TINY, "--text", HELDOUT, "--windows", 1)
    assert (code, out, err.strip()) == (130, "", "wncore: interrupted")


@pytest.mark.parametrize("absent", ["torch", "transformers", "tokenizers", "safetensors"])
def test_nothing_to_open_it_with(absent):
    code = f"import sys; sys.modules[{absent!r}] = None; import wncore_cli; wncore_cli.run()"
    command = [sys.executable, "-c", code, "eval", str(TINY), "--text", str(HELDOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("wncore: error: model folders are opened by ")
    assert absent in line
    assert line.endswith("is not installed; type: pip install 'wncore[torch]'")


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"),
            "the device is out of memory, and 7 MiB were foretold",
        ),
        (MemoryError(), "the host is out of memory, and 3 MiB were foretold"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "the host is out of memory"),
    ],
)
def test_out_of_memory_names_options(error, where):
    from wncore_torch.model.memory import saying_what_to_change

    with (
        pytest.raises(MemoryBudgetError, match=f"{where}.*; give a smaller --batch, --length or --windows"),
        saying_what_to_change(Memory(3 * 2**20, 7 * 2**20)),
    ):
        raise error


def test_other_errors_of_torch_stay_what_they_are():
    from wncore_torch.model.memory import saying_what_to_change

    with pytest.raises(RuntimeError, match="shapes"), saying_what_to_change(Memory()):
        raise RuntimeError("shapes cannot be multiplied")
