"""Every example and every command of the documentation runs."""

import doctest
import re
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import wncore_cli
from wncore.dumps import write_dump

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CORE = sorted(path for folder in ("", "pruning", "experts") for path in (ROOT / "wncore" / folder).glob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_the_pages(page, monkeypatch):
    printing = np.get_printoptions()
    failures, _ = doctest.testfile(str(page), module_relative=False)
    np.set_printoptions(**printing)
    assert failures == 0


@pytest.mark.parametrize("path", CORE, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_examples_of_the_core(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    failures, _ = doctest.testmod(import_module(".".join(parts).removesuffix(".__init__")))
    assert failures == 0


def test_examples_of_the_pages_that_write(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "dump-format.md").read_text(), re.S):
        exec(compile(block, "dump-format.md", "exec"), {})
    assert wncore_cli.main(["inspect", "acts.safetensors"]) == 0
    assert "mlp.up" in capsys.readouterr().out


def commands() -> list[str]:
    """All lines of the pages' shell blocks that call wncore."""
    blocks = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)]
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("wncore ")]


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_pages(line, tmp_path, monkeypatch, request):
    """But for most of the conformance suite, which test_torch_conformance.py runs."""
    command = shlex.split(line)[1:]
    if "torch" in command:
        pytest.importorskip("torch", reason="torch is not installed")
    if "--plot" in command:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    if command[0] == "certify":
        command += ["--examples", "1", "-k", "signature"]
    monkeypatch.chdir(tmp_path)
    if "data/tiny-llm" in line:
        pytest.importorskip("transformers", reason="transformers is not installed")
        request.getfixturevalue("one_thread")
    (tmp_path / "data").symlink_to(ROOT / "data")
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((256, 8), dtype=np.float32), rng.standard_normal((12, 8), dtype=np.float32)
    tensors = {"block.up_proj.input": x, "block.up_proj.weight": w}
    for name in ("acts", "dense"):
        write_dump(f"{name}.safetensors", tensors, sequence_length=32)
    write_dump("sparse.safetensors", tensors | {"block.up_proj.weight": np.where(abs(w) > 0.5, w, 0)})
    write_dump("dump", tensors, sequence_length=32, shard_bytes=4096)
    if "wncore prune model/" in line:  # a model of any name, and texts
        pytest.importorskip("transformers", reason="transformers is not installed")
        request.getfixturevalue("one_thread")
        (tmp_path / "model").symlink_to(ROOT / "data" / "tiny-llm")
        for name in ("calibration", "other"):
            (tmp_path / f"{name}.txt").write_bytes((tmp_path / "model" / "heldout.txt").read_bytes()[:40_000])
    if "dump-to-prune" in command[1]:
        write_dump("dump-to-prune", tensors, sequence_length=32, shard_bytes=4096)
    if "verify" in line:
        assert wncore_cli.main(["expand", "acts.safetensors", "-o", "experts.safetensors", "--quiet"]) == 0
    assert wncore_cli.main(command) == 0


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "backends" / "README.md", ROOT / "data" / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
