"""Hostile sources: devices, loops, files that change meanwhile or announce more than memory holds."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import hostile
import judge
import pytest
import rawfile

import wncore.dumps
from wncore.dumps.header import LONGEST

DEVICES = ["/dev/zero", "/dev/null", "/dev/tty", "/dev/full", "/proc/self/mem", "/proc/self/environ"]


class TestSources:
    """What is named as a dump may be anything that a path can lead to."""

    @pytest.mark.parametrize("name", ["dump.safetensors", "dump.safetensors.index.json", "folder"])
    @pytest.mark.parametrize("kind", ["missing", "empty", "folder", "pipe", "socket", "loop", "dangling", *DEVICES])
    def test_only_files_and_folders_with_dumps_are_read(self, tmp_path, monkeypatch, name, kind, capsys):
        monkeypatch.chdir(tmp_path)
        path = Path(name)
        if kind == "empty":
            path.touch()
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(name)
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "dangling":
            path.symlink_to("nowhere")
        elif kind != "missing":
            path.symlink_to(kind)
        assert judge.problem(capsys, path) is None

    @pytest.mark.parametrize("kind", ["folder", "pipe", "/dev/zero", "loop", "dangling", "empty"])
    def test_one_of_them_within_a_folder_spoils_it(self, tmp_path, kind, capsys):
        hostile_one = tmp_path / "set" / "b.safetensors"
        hostile_one.parent.mkdir()
        rawfile.write(tmp_path / "set" / "a.safetensors", hostile.tensors())
        if kind == "folder":
            hostile_one.mkdir()
        elif kind == "pipe":
            os.mkfifo(hostile_one)
        elif kind == "empty":
            hostile_one.touch()
        else:
            hostile_one.symlink_to({"loop": "b.safetensors", "dangling": "nowhere"}.get(kind, kind))
        assert str(hostile_one) in judge.refusal(capsys, tmp_path / "set")

    @pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "a\nb", "\x1b[2J", "\udcff", "-", "~", "*", "%s"])
    def test_a_name_that_no_file_has_is_repeated_on_one_line(self, tmp_path, name, capsys):
        assert judge.problem(capsys, tmp_path / name, names="File name too long") is None

    @pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\udcff", "\U0001d54f", "%s", "{0}"])
    def test_a_sound_dump_may_have_any_name(self, tmp_path, capsys, name):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(rawfile.pack(*hostile.sound()))
        assert judge.problem(capsys, path) is None
        assert judge.scores(capsys, path) is not None

    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_what_may_not_be_read_is_refused(self, tmp_path, what, capsys):
        dump = hostile.write_sound(tmp_path)
        source = dump if what == "file" else tmp_path
        source.chmod(0)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            assert f"{source} cannot be read: Permission denied" in judge.refusal(capsys, source)
        finally:
            if root:
                os.seteuid(0)
            source.chmod(0o700)

    @pytest.mark.parametrize("arguments", ["", "--length 0", "--length x", "--skip-tokens -1", "--gone", "--memory x",
                                           "--estimator x", "--pairs -1"])  # fmt: skip
    def test_wrong_usage_is_another_code(self, tmp_path, capsys, arguments):
        dump = hostile.write_sound(tmp_path)
        sources = [dump] if arguments else []
        code, out, err = judge.run(capsys, "score", *sources, *arguments.split())
        assert (code, out) == (2, "")
        assert "Traceback" not in err


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "grown": lambda path: os.truncate(path, path.stat().st_size + 8),
    "removed": lambda path: path.unlink(),
    "touched": lambda path: os.utime(path, ns=(1, 1)),
    "another file": lambda path: replaced(path, lambda at: at.write_bytes(bytes(10**5))),
    "a pipe": lambda path: replaced(path, os.mkfifo),
    "a folder": lambda path: replaced(path, os.mkdir),
    "/dev/zero": lambda path: replaced(path, lambda at: at.symlink_to("/dev/zero")),
    "a loop": lambda path: replaced(path, lambda at: at.symlink_to(at)),
}


class TestChanges:
    """The file changes after its header was read."""

    @pytest.mark.parametrize("change", CHANGES)
    def test_it_is_refused(self, tmp_path, capsys, monkeypatch, change):
        dump = hostile.write_sound(tmp_path)
        opened = wncore.dumps.open_dump

        def open_and_change(*sources, **options):
            found = opened(*sources, **options)
            CHANGES[change](dump)
            return found

        monkeypatch.setattr(wncore.dumps, "open_dump", open_and_change)
        code, out, err = judge.run(capsys, "score", dump, "--quiet", "--backend", "numpy")
        assert judge.wrong_error(code, out, err, (dump,)) is None

    def test_a_writer_at_the_same_time_spoils_no_answer(self, tmp_path, capsys):
        """Whenever the reader comes, it sees the beginning of one content, and must not take it for the whole."""
        dump = hostile.write_sound(tmp_path)
        content, sound, done = dump.read_bytes(), judge.scores(capsys, dump), threading.Event()

        def rewrite() -> None:
            while not done.is_set():
                for size in (0, 100, len(content) // 2, len(content) - 1, len(content)):
                    dump.write_bytes(content[:size])

        writer = threading.Thread(target=rewrite)
        writer.start()
        try:
            for _ in range(100):
                code, out, err = judge.run(capsys, "score", dump, "--json", "--quiet", "--backend", "numpy")
                wrong = judge.wrong_error(code, out, err, (dump,)) if code else None
                assert wrong is None
                assert code or json.loads(out)["layers"] == sound
        finally:
            done.set()
            writer.join()


@pytest.mark.xdist_group("alone")
class TestMemory:
    """No header, whatever it announces or holds, takes more memory than a command may by default."""

    @pytest.mark.parametrize(
        ("unit", "says"),
        [
            (None, "has a header of 100000000 bytes; more than 33554432 are not read"),
            (b"[],", "has a header that is not sound JSON: "),
            (b"[", "has a header that is not sound JSON: it is nested too deeply"),
            (b'"a":0,', "has a header that is not sound JSON: "),
            (b" ", "has a header that is not sound JSON: "),
        ],
    )
    def test_a_vast_header_is_refused(self, tmp_path, unit, says):
        path = tmp_path / "dump.safetensors"
        if unit is None:
            path.write_bytes((10**8).to_bytes(8, "little"))
            os.truncate(path, 3 * 10**8)
        else:
            text = (b"{" if unit[0] == ord('"') else b"[") + unit * ((LONGEST - 1) // len(unit))
            path.write_bytes(len(text).to_bytes(8, "little") + text)
        script = """
            import resource, sys
            from wncore_cli import main
            code = main(["score", sys.argv[1]])
            print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        """
        command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        code, peak = map(int, done.stdout.split())
        assert code == 1
        assert done.stderr.startswith(f"wncore: error: {path} {says}")
        assert done.stderr.count("\n") == 1
        assert peak < (1024 + 300) * 2**20
