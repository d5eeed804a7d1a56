"""Triton's compiled kernels are kept as the core keeps compiled code; compiling for a GPU needs none."""

import logging
import os
from pathlib import Path

import pytest

from wncore import kept

pytest.importorskip("torch", reason="torch is not installed")
triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted", allow_module_level=True)

from triton import language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.cache import FileCacheManager, get_cache_manager  # noqa: E402

from wncore_torch.kernels.kept import KernelCache, kept_kernels  # noqa: E402


@triton.jit
def increment(x, n, SIZE: tl.constexpr):
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(x + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "_said", [])
    monkeypatch.setattr("wncore_torch.kernels.kept._scratch", lambda: Scratch(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


class Scratch:
    """A folder of a run; each that asks gets a new one."""

    number = 0

    def __init__(self, parent):
        self.name = str(parent / f"run{Scratch.number}")
        Path(self.name).mkdir(exist_ok=True)


@pytest.fixture
def notes(caplog):
    caplog.set_level(logging.INFO, "wncore")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "wncore"]


def compiled():
    """Compile as in a new run; return the machine code, and whether it was kept."""
    Scratch.number += 1
    hits = []
    source = ASTSource(increment, {"x": "*fp32", "n": "i32", "SIZE": "constexpr"}, {"SIZE": 64})
    with triton.knobs.compilation.scope(), kept_kernels():
        triton.knobs.compilation.listener = lambda cache_hit, **_: hits.append(cache_hit)
        kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    return kernel.asm["cubin"], hits == [True]


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_kernels_are_kept_and_found(folder, notes):
    first, second = compiled(), compiled()
    assert (first[1], second[1]) == (False, True)
    assert first[0] == second[0]
    assert len(files(folder)) > 3
    assert notes() == []


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-1], lambda raw: bytes(len(raw))])
def test_a_damaged_file_of_any_kind_is_compiled_again(folder, notes, damage):
    code, _ = compiled()
    for path in files(folder):
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        again = compiled()
        assert again == (code, False), path.name
        assert compiled() == (code, True)
    assert len(notes()) == 1
    assert "is damaged" in notes()[0]


def test_without_a_place_kernels_are_compiled(monkeypatch, tmp_path, notes):
    monkeypatch.chdir(tmp_path)
    for variables in ({"TRITON_CACHE_DIR": "/dev/null/x"}, {"TRITON_CACHE_DIR": "", "HOME": "~", "XDG_CACHE_HOME": ""}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert compiled()[1] is False
        assert compiled()[1] is False
    assert not (tmp_path / "~").exists()
    assert len(notes()) == 1
    assert "TRITON_CACHE_DIR" in notes()[0]


def test_the_cache_of_others_is_left_alone(monkeypatch):
    class Chosen(FileCacheManager):
        pass

    with triton.knobs.cache.scope():
        triton.knobs.cache.manager_class = Chosen
        with kept_kernels():
            assert isinstance(get_cache_manager("ab"), Chosen)
    with kept_kernels():
        assert isinstance(get_cache_manager("ab"), KernelCache)
        assert isinstance(KernelCache("AB", override=True), FileCacheManager)
    assert triton.knobs.cache.manager_class is None
