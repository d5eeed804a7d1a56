"""Whatever fails while a file is written, and whenever: the old file stays whole."""

import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import rawfile
from dump_samples import names_in

from wncore.dumps import write_dump, write_tensors
from wncore.errors import WncoreError
from wncore.files import replacing

Y = np.random.default_rng(0).standard_normal((12, 5))


class TestFailures:
    """Whatever fails, the old file stays and no part of a new one is left."""

    def old(self, folder: Path) -> Path:
        write_tensors(folder / "a.safetensors", {"a": Y})
        return folder / "a.safetensors"

    def intact(self, path: Path) -> bool:
        return names_in(path.parent) == [path.name] and rawfile.read(path)[0]["a"][2] == Y.tobytes()

    @pytest.mark.parametrize("error", [ZeroDivisionError("bug"), KeyboardInterrupt(), MemoryError()])
    def test_an_exception_on_the_way(self, tmp_path, error):
        path = self.old(tmp_path)

        def fail():
            with replacing(path, force=True) as temporary:
                temporary.write_bytes(b"half")
                raise error

        with pytest.raises(type(error)):
            fail()
        assert self.intact(path)

    @pytest.mark.parametrize("step", ["mkstemp", "chmod", "fsync", "replace"])
    def test_a_disk_that_fails_at_any_step(self, tmp_path, monkeypatch, step):
        path = self.old(tmp_path)

        def fail(*args, **kwargs):
            raise OSError(28, "No space left on device")

        owner = {"mkstemp": "tempfile.mkstemp", "fsync": "os.fsync"}.get(step, f"pathlib.Path.{step}")
        monkeypatch.setattr(owner, fail)
        with pytest.raises(
            WncoreError, match=r"a\.safetensors could not be written: No space left on device; nothing was"
        ):
            write_tensors(path, {"a": -Y}, force=True)
        monkeypatch.undo()
        assert self.intact(path)

    @pytest.mark.xdist_group("alone")
    @pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet", "a.safetensors"])
    def test_scores_that_are_larger_than_a_file_may_be(self, tmp_path, name):
        """The limit of a file's size stands for a full disk where nobody may mount one."""
        dump, out = tmp_path / "dump.safetensors", tmp_path / "out" / name
        write_dump(dump, {"fc.output": np.random.default_rng(0).standard_normal((8, 3000))})
        out.parent.mkdir()
        out.write_text("old")
        done = score(dump, out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith(f"wncore: error: {out} could not be written: ")
        assert done.stderr.count("\n") == 1
        assert out.read_text() == "old"
        assert names_in(out.parent) == [name]

    @pytest.mark.xdist_group("alone")
    def test_a_disk_that_is_full(self, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no disk may be mounted here")
        try:
            path = self.old(disk)
            with pytest.raises(WncoreError, match=r"could not be written: No space left on device; nothing was"):
                write_tensors(path, {"a": np.zeros(100_000)}, force=True)
            assert self.intact(path)
        finally:
            subprocess.run(["umount", disk], check=True)


@pytest.mark.xdist_group("alone")
class TestKill:
    """A process that is killed while it writes leaves the old file or the new one, whole."""

    def test_while_tensors_are_written(self, tmp_path):
        path = tmp_path / "a.safetensors"
        script = """
            import itertools, sys
            import numpy as np
            from wncore.dumps import write_tensors
            for i in itertools.count(int(sys.argv[2])):
                tensors = {"a": np.full((500, 1000), i)[:, ::-1], "b": np.full(7, i)}
                write_tensors(sys.argv[1], tensors, {"i": str(i)}, force=True)
                print(i, flush=True)
        """
        chance, seen = random.Random(0), set()
        for round_ in range(20):
            kill_while([sys.executable, "-c", textwrap.dedent(script), str(path), str(1000 * round_)], chance)
            tensors, metadata = rawfile.read(path)
            i = int(metadata["i"])
            assert tensors["a"] == ("I64", [500, 1000], np.full((500, 1000), i).tobytes())
            assert tensors["b"] == ("I64", [7], np.full(7, i).tobytes())
            seen.add(i)
        assert len(seen) == 20

    @pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet", "a.safetensors"])
    def test_while_scores_are_written(self, tmp_path, name):
        dump, out = tmp_path / "dump.safetensors", tmp_path / name
        write_dump(dump, {"fc.output": np.random.default_rng(0).standard_normal((8, 2000))})
        assert score(dump, out).returncode == 0
        whole = out.read_bytes()
        script = f"""
            import sys
            from wncore_cli import main
            while True:
                main({arguments(dump, out)!r})
                print("written", file=sys.stderr, flush=True)
        """
        chance = random.Random(name)
        for _ in range(5):
            kill_while([sys.executable, "-c", textwrap.dedent(script)], chance, stderr=True)
            assert out.read_bytes() == whole


def arguments(dump: Path, out: Path) -> list[str]:
    return ["score", str(dump), "-o", str(out), "--force", "--quiet", "--top", "0", "--backend", "numpy"]


def score(dump: Path, out: Path, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "wncore_cli", *arguments(dump, out)]
    command[1:3] = ["-c", "import wncore_cli; wncore_cli.run()"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **options)


def kill_while(command: list[str], chance: random.Random, stderr: bool = False) -> None:
    """Start a process that reports each file it has written; kill it at some moment after the first."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} if stderr else {"stdout": subprocess.PIPE}
    with subprocess.Popen(command, **streams) as process:
        report = process.stderr if stderr else process.stdout
        assert report is not None
        assert report.readline()
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=600) == -signal.SIGKILL
