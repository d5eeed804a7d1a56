"""File systems that know no permissions or no flushing, and arguments that name nothing."""

import errno
import os

import numpy as np
import pytest
from dump_samples import names_in
from rawfile import read, write

from wncore.dumps import open_dump, write_dump
from wncore.errors import DumpError, WriteError
from wncore.files import replacing

RNG = np.random.default_rng(0)
TENSORS = {
    "l.input": RNG.standard_normal((200, 8)).astype(np.float32),
    "l.weight": RNG.standard_normal((6, 8)).astype(np.float32),
}
WORK = {"score": ["s.csv"], "prune": ["p.safetensors"], "expand": ["e.safetensors", "--experts", "2", "--pairs", "9"]}


@pytest.fixture
def acts(tmp_path):
    return write(tmp_path / "a.safetensors", TENSORS)


def refusing(code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.parametrize("calls", [["chmod", "fchmod"], ["fsync"], ["chmod", "fchmod", "fsync", "utime"]])
def test_what_a_file_system_does_not_know_is_done_without(run, acts, monkeypatch, calls, code):
    for name in calls:
        monkeypatch.setattr(os, name, refusing(code))
    for command, (file, *options) in WORK.items():
        assert run(command, acts, "-o", acts.parent / file, "--quiet", *options)[0] == 0
    assert names_in(acts.parent) == sorted(["a.safetensors", *(file for file, *_ in WORK.values())])
    write_dump(acts.parent / "set", TENSORS, shard_bytes=4000)
    assert open_dump(acts.parent / "set").layers["l"].rows == 200


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_data_that_are_lost_are_an_error(tmp_path, monkeypatch, code):
    path = tmp_path / "a"
    path.write_text("old")

    def save():
        with replacing(path, force=True) as temporary:
            temporary.write_text("new")

    monkeypatch.setattr(os, "fsync", refusing(code))
    with pytest.raises(WriteError, match="could not be written"):
        save()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path, monkeypatch):
    whole = os.fsync

    def fails_for_folders(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            raise OSError(errno.EIO, "Input/output error")
        whole(handle)

    monkeypatch.setattr(os, "fsync", fails_for_folders)
    write(tmp_path / "a.safetensors", TENSORS)
    assert set(read(tmp_path / "a.safetensors")[0]) == set(TENSORS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", ""],
        ["inspect", ""],
        ["prune", ""],
        ["expand", ""],
        ["verify", ""],
        ["certify", ""],
        ["score", "{acts}", ""],
        ["verify", "{acts}", "--against", ""],
        *(
            ["score", "{acts}", option, ""]
            for option in ("-o", "--against", "--plot", "--layer", "--exclude", "--backend", "--device")
        ),
        *(["prune", "{acts}", option, ""] for option in ("-o", "--by-neuron", "--plot")),
        *(["expand", "{acts}", option, ""] for option in ("-o", "--by-neuron", "--plot")),
        ["certify", "numpy", "-o", ""],
        ["certify", "numpy", "--device", ""],
        ["verify", "{acts}", "--backend", ""],
    ],
    ids=" ".join,
)
def test_an_empty_argument_names_nothing(run, acts, monkeypatch, arguments):
    monkeypatch.chdir(acts.parent)
    code, out, err = run(*(argument.format(acts=acts) for argument in arguments))
    assert (code, out) == (2, "")
    assert "an empty argument names" in err
    assert names_in(acts.parent) == ["a.safetensors"]


def test_an_empty_name_is_no_dump():
    with pytest.raises(DumpError, match="an empty name is no file"):
        open_dump("")


@pytest.mark.parametrize("command", ["score", "inspect", "prune", "expand", "verify"])
def test_a_dash_is_no_file_and_it_is_said_why(run, acts, monkeypatch, command):
    monkeypatch.chdir(acts.parent)
    code, out, err = run(command, "-")
    assert (code, out) == (2, "")
    assert "standard input and output are streams" in " ".join(err.split())
    assert "./-" in err
    acts.rename(acts.with_name("-"))
    assert run("inspect", "./-")[0] == 0
