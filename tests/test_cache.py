"""Compiled code that is kept is a convenience: nothing that is wrong with it changes a result or ends a run."""

import errno
import logging
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import wncore.scoring
from wncore import kept
from wncore.fast import NumbaBackend
from wncore.fast import compiled as compiling
from wncore.fast.compiled import compiled


def square(x):
    return x * x


class Evil:
    """Whoever unpickles it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A cache of its own, and nothing said yet."""
    monkeypatch.setattr(kept, "_said", [])
    monkeypatch.setattr(compiling, "_folders", lambda: [tmp_path / "kept"])
    return tmp_path / "kept"


@pytest.fixture
def notes(caplog):
    caplog.set_level(logging.INFO, "wncore")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "wncore"]


def fresh():
    """Return how often a new dispatcher of `square` found its code, after a call."""
    dispatcher = compiled(square)
    assert dispatcher(3) == 9
    return sum(dispatcher.stats.cache_hits.values())


def test_code_is_kept_and_found(folder, notes):
    assert [fresh(), fresh()] == [0, 1]
    assert len(list(folder.iterdir())) == 1
    assert notes() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: b"abc",
        lambda raw: b"\0" * len(raw),
        lambda raw: raw[:100],
        lambda raw: raw[:-1],
        lambda raw: raw[: len(raw) // 2] + b"\0" * (len(raw) - len(raw) // 2),
        lambda raw: raw[:-1000] + bytes([raw[-1000] ^ 1]) + raw[-999:],  # would be run as machine code
        lambda raw: raw + b"0",
    ],
    ids=["empty", "garbage", "zeros", "cut", "last byte", "zero pages", "one bit", "longer"],
)
def test_a_damaged_file_is_compiled_again_and_mended(folder, notes, damage):
    fresh()
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert [fresh(), fresh()] == [0, 1]
    assert len(notes()) == 1
    assert "is damaged; the code is compiled again" in notes()[0]


@pytest.mark.parametrize(
    "code",
    [b"", b"abc", pickle.dumps(None), pickle.dumps((1, 2)), b"cno.such\nmodule\n."],
    ids=["EOFError", "UnpicklingError", "nothing", "a pair", "ModuleNotFoundError"],
)
def test_a_file_that_is_whole_and_cannot_be_used_is_compiled_again(notes, monkeypatch, code):
    with monkeypatch.context() as patch:
        patch.setattr("wncore.fast.compiled.dumps", lambda data: code)
        fresh()
    assert [fresh(), fresh()] == [0, 1]
    assert len(notes()) == 1


def test_another_version_or_another_source_is_no_damage(folder, notes, monkeypatch):
    fresh()
    monkeypatch.setattr(compiling, "_source_digest", lambda: b"changed")
    assert [fresh(), fresh()] == [0, 1]
    monkeypatch.setattr("numba.__version__", "9.9")
    assert [fresh(), fresh()] == [0, 1]
    assert len(list(folder.iterdir())) == 1
    assert notes() == []


def test_a_file_under_another_name_is_not_taken_for_it(folder):
    kept.save([folder], "a", b"of a", b"code of a", "X")
    (folder / "a").rename(folder / "b")
    assert kept.load([folder], "b", b"of b") is None


def test_a_folder_in_the_place_of_a_file(folder, notes):
    fresh()
    (path,) = folder.iterdir()
    path.unlink()
    path.mkdir()
    assert [fresh(), fresh()] == [0, 0]
    assert len(notes()) == 1
    assert "is compiled again in every run" in notes()[0]
    assert list(folder.iterdir()) == [path]


def test_a_full_disk_leaves_nothing_behind(folder, notes, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    assert [fresh(), fresh()] == [0, 0]
    assert list(folder.iterdir()) == []
    assert len(notes()) == 1
    assert "No space left on device" in notes()[0]


def test_the_next_folder_is_taken_where_the_first_is_read_only(tmp_path, notes, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    folders = [tmp_path / "file" / "kept", tmp_path / "home"]
    monkeypatch.setattr(compiling, "_folders", lambda: folders)
    assert [fresh(), fresh()] == [0, 1]
    assert notes() == []


def test_what_others_may_write_is_not_unpickled(folder, tmp_path, notes):
    fresh()
    (path,) = folder.iterdir()
    raw, code = path.read_bytes(), pickle.dumps(Evil(tmp_path / "taken over"))
    origin = raw[len(kept.MAGIC) : kept.HEAD - 32]
    path.write_bytes(kept.MAGIC + origin + kept.digest(code) + code)
    path.chmod(0o666)
    assert fresh() == 0
    assert not (tmp_path / "taken over").exists()
    assert "may have been written by somebody else" in notes()[0]


@pytest.mark.parametrize(
    ("owner", "mode", "expected"),
    [("us", 0o644, True), ("root", 0o644, True), ("other", 0o644, False), ("us", 0o664, False), ("us", 0o646, False)],
)
def test_files_of_others_are_not_trusted(owner, mode, expected):
    us = os.geteuid()
    uid = {"us": us, "root": 0, "other": max(us, kept.SOURCE.stat().st_uid) + 1}[owner]
    assert kept._trusted(os.stat_result((stat.S_IFREG | mode, 1, 1, 1, uid, 0, 0, 0, 0, 0))) is expected


def test_a_link_is_not_followed(folder, tmp_path):
    kept.save([folder], "a", b"", b"code", "X")
    (folder / "a").rename(tmp_path / "a")
    (folder / "a").symlink_to(tmp_path / "a")
    assert kept.load([folder], "a", b"") is None


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder):
    folder.mkdir()
    os.mkfifo(folder / "a")
    assert kept.load([folder], "a", b"") is None


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"HOME": "/proc/nohome"}, 1),
        ({"HOME": "~"}, 1),
        ({"HOME": "relative"}, 1),
        ({"XDG_CACHE_HOME": "~/.cache"}, 2),
        ({"XDG_CACHE_HOME": "relative"}, 2),
        ({"XDG_CACHE_HOME": ""}, 2),
        ({"NUMBA_CACHE_DIR": "/dev/null"}, 1),
        ({"NUMBA_CACHE_DIR": "~nobody-of-that-name/x"}, 0),
        ({"NUMBA_CACHE_DIR": "~/x", "HOME": "~"}, 0),
        ({"NUMBA_CACHE_DIR": "~/x"}, 1),
        ({"NUMBA_CACHE_LOCATOR_CLASSES": "UserWideCacheLocator"}, 1),
        ({"NUMBA_CACHE_LOCATOR_CLASSES": "Nonsense"}, 0),
    ],
    ids=str,
)
def test_folders_are_absolute_and_never_called_tilde(monkeypatch, tmp_path, variables, count):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "NUMBA_CACHE_LOCATOR_CLASSES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": str(tmp_path)} | variables).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(compiling.config, "CACHE_DIR", variables.get("NUMBA_CACHE_DIR", ""))
    monkeypatch.setattr(
        compiling.config, "CACHE_LOCATOR_CLASSES", variables.get("NUMBA_CACHE_LOCATOR_CLASSES", ""), raising=False
    )
    found = compiling._folders()
    assert len(found) == count
    assert all(path.is_absolute() and "~" not in path.parts for path in found)


def test_without_any_place_code_is_compiled_and_one_note_is_printed(tmp_path):
    lost = {"HOME": "~", "NUMBA_CACHE_DIR": "", "NUMBA_CACHE_LOCATOR_CLASSES": "UserWideCacheLocator"}
    environment = {key: value for key, value in os.environ.items() if key != "XDG_CACHE_HOME"} | lost
    code = "from wncore.fast.bounds import _cdf; from wncore.fast.grams import mirror; import numpy; "
    code += "print(_cdf(0.0), mirror(numpy.eye(2)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "0.5 None\n"
    assert done.stderr.count("\n") == 1
    assert "there is no home; name a folder of your own in NUMBA_CACHE_DIR" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quiet", [True, False])
def test_the_command_line_prints_the_note_unless_it_is_quiet(run, dump, monkeypatch, quiet):
    exact = NumbaBackend.gaussian_distance

    def noted(self, y):
        kept.say_once("nothing\x1b is kept")
        return exact(self, y)

    monkeypatch.setattr(NumbaBackend, "gaussian_distance", noted)
    code, _, err = run("score", dump, *(["--quiet"] if quiet else []))
    assert code == 0
    assert err == ("" if quiet else "note: nothing\\x1b is kept\n")


def test_the_end_of_a_file_is_not_called_an_interruption(run, dump, monkeypatch):
    def ended(*_, **__):
        raise EOFError("Ran out of input")

    monkeypatch.setattr(wncore.scoring, "score_layer", ended)
    code, _, err = run("score", dump)
    assert code == 1
    assert "EOFError: Ran out of input" in err
    assert "interrupted" not in err
