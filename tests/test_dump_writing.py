"""Writing: what is written is read back alike whatever its layout in memory, and an old file is never lost."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import rawfile
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from wncore.dumps import open_dump, write_dump, write_tensors
from wncore.errors import InputError, OutputExistsError, ShapeError, WncoreError
from wncore.files import replacing

FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
          ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz]  # fmt: skip
OTHERS = [np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint16, np.uint32, np.uint64]
LAYOUTS = {
    "C": lambda a: a,
    "Fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "every other row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every third column": lambda a: np.repeat(a, 3, axis=-1)[..., ::3],
    "rows backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "all axes backwards": lambda a: np.ascontiguousarray(np.flip(a))[(slice(None, None, -1),) * a.ndim],
    "part of a larger array": lambda a: np.pad(a, 1)[(slice(1, -1),) * a.ndim],
    "read-only": lambda a: _locked(a.copy()),
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")) if a.dtype.kind in "fiu" else a,
}
Y = np.random.default_rng(0).standard_normal((12, 5))


def _locked(array):
    array.flags.writeable = False
    return array


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestRoundTrip:
    """Every dtype, every layout in memory."""

    @given(data=st.data())
    def test_what_is_read_is_what_was_written(self, data, tmp_path_factory):
        dtype = np.dtype(data.draw(st.sampled_from(FLOATS + OTHERS), "dtype"))
        shape = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4), "shape")
        layout = data.draw(st.sampled_from(sorted(LAYOUTS)), "layout")
        bits = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
        whole = np.frombuffer(bits.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
        whole = (whole.view(np.uint8) % 2).view(np.bool_) if dtype == np.bool_ else whole
        path = tmp_path_factory.mktemp("writing") / "a.safetensors"
        write_tensors(path, {"a": LAYOUTS[layout](whole), "other": Y.T}, {"key": "value"})
        tensors, metadata = rawfile.read(path)
        assert tensors["a"] == (rawfile.NAMES.get(dtype.name, f"U{8 * dtype.itemsize}" if dtype.kind == "u" else
                                                  f"I{8 * dtype.itemsize}"), shape, whole.tobytes())  # fmt: skip
        assert tensors["other"] == ("F64", [5, 12], Y.T.tobytes())
        assert metadata == {"key": "value"}

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", FLOATS)
    def test_a_dump_is_read_back_by_its_own_reader(self, tmp_path, dtype, layout):
        y = Y.astype(dtype)
        (path,) = write_dump(tmp_path / "a.safetensors", {"fc.output": LAYOUTS[layout](y)}, sequence_length=4)
        layer = open_dump(path).layers["fc"]
        got = layer.output.read()
        assert got.dtype == dtype
        assert got.tobytes() == y.tobytes()
        assert layer.sequence_length == 4

    @given(data=st.data())
    def test_the_safetensors_library_reads_the_same(self, data, tmp_path_factory):
        dtypes = {name: data.draw(st.sampled_from([np.float64, np.float16, ml_dtypes.bfloat16, *OTHERS]), name)
                  for name in ("b", "a", "c")}  # fmt: skip
        tensors = {name: np.arange(i + 3).astype(dtype) for i, (name, dtype) in enumerate(dtypes.items())}
        path = tmp_path_factory.mktemp("writing") / "a.safetensors"
        write_tensors(path, tensors, {"\u00fc": '\U0001d54f "\\\n'})
        with safe_open(path, framework="np") as file:
            assert file.metadata() == {"\u00fc": '\U0001d54f "\\\n'}
            for name, array in tensors.items():
                got = file.get_tensor(name)
                assert (got.dtype, got.tobytes()) == (array.dtype, array.tobytes())

    def test_no_run_gives_another_file(self, tmp_path):
        metadata = {str(i): "" for i in range(20)}
        write_tensors(tmp_path / "a", {"a": Y, "b": Y}, metadata)
        write_tensors(tmp_path / "b", {"b": Y, "a": Y}, dict(reversed(metadata.items())))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_an_array_of_many_chunks_is_written_whole(self, tmp_path):
        whole = np.arange(3_000_000.0).reshape(3, -1).T
        write_tensors(tmp_path / "a", {"a": whole})
        assert rawfile.read(tmp_path / "a")[0]["a"][2] == whole.tobytes()

    def test_lists_are_arrays_too(self, tmp_path):
        write_dump(tmp_path / "a.safetensors", {"fc.output": [[1.0, 2.0], [3.0, 4.0]]})
        assert open_dump(tmp_path).layers["fc"].output.read().tolist() == [[1, 2], [3, 4]]

    def test_the_metadata_are_those_of_schema_1(self, tmp_path):
        path = tmp_path / "a.safetensors"
        write_dump(path, {"up.input": Y, "up.weight": Y[:2], "gate.weight": Y[:3]}, model="m", text="t",
                   sequence_length=6, shared_inputs={"gate": "up"})  # fmt: skip
        assert rawfile.read(path)[1] == {
            "wncore.schema": "1",
            "wncore.model": "m",
            "wncore.text": "t",
            "wncore.sequence_length": "6",
            "wncore.shared_inputs": '{"gate": "up"}',
        }
        assert open_dump(path).layers["gate"].input.rows == 12


class TestRefusals:
    """What cannot be stored or read back is refused, and nothing is written."""

    @pytest.mark.parametrize("array", [np.float64(1), np.zeros((0, 3)), np.zeros((3, 0))])
    def test_a_dump_holds_no_tensor_without_a_row(self, tmp_path, array):
        with pytest.raises(ShapeError, match=r"fc\.output has the shape .*; a tensor of a dump holds at least one row"):
            write_dump(tmp_path / "a.safetensors", {"fc.output": array})
        assert names_in(tmp_path) == []

    @pytest.mark.parametrize("dtype", ["complex128", "longdouble", "U3", "O", "datetime64[s]"])
    def test_a_dtype_that_the_format_lacks_is_refused(self, tmp_path, dtype):
        with pytest.raises(ShapeError, match=r"a has the dtype .*; what can be stored: F64 F32 F16 BF16 "):
            write_tensors(tmp_path / "a.safetensors", {"a": np.zeros(2).astype(dtype)})
        assert names_in(tmp_path) == []

    @pytest.mark.parametrize("name", ["__metadata__", "", "half a \ud800 character", "n" * 1001])
    def test_a_name_that_the_format_lacks_is_refused(self, tmp_path, name):
        with pytest.raises(InputError, match=r"a\.safetensors: .*; choose another"):
            write_tensors(tmp_path / "a.safetensors", {name: Y})
        assert names_in(tmp_path) == []

    def test_metadata_that_are_no_text_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="metadata must be text"):
            write_tensors(tmp_path / "a.safetensors", {"a": Y}, {"key": 3})
        with pytest.raises(InputError, match="no Unicode text"):
            write_tensors(tmp_path / "a.safetensors", {"a": Y}, {"key": "\ud800"})
        assert names_in(tmp_path) == []

    @pytest.mark.parametrize("length", [0, -4])
    def test_a_sequence_has_a_token(self, tmp_path, length):
        with pytest.raises(InputError, match="at least one token"):
            write_dump(tmp_path / "a.safetensors", {"fc.output": Y}, sequence_length=length)


class TestOutputs:
    """Where a file may be written to."""

    def test_a_file_that_exists_is_refused_without_force(self, tmp_path):
        path = tmp_path / "a.safetensors"
        path.write_text("old")
        with pytest.raises(OutputExistsError, match="exists already; choose another name, or replace it with --force"):
            write_tensors(path, {"a": Y})
        assert path.read_text() == "old"
        write_tensors(path, {"a": Y}, force=True)
        assert rawfile.read(path)[0]["a"][2] == Y.tobytes()

    def test_a_file_that_appears_meanwhile_is_kept(self, tmp_path):
        path = tmp_path / "a.txt"

        def write_both():
            with replacing(path) as temporary:
                temporary.write_text("new")
                path.write_text("theirs")

        with pytest.raises(OutputExistsError):
            write_both()
        assert path.read_text() == "theirs"
        assert names_in(tmp_path) == ["a.txt"]

    @pytest.mark.parametrize("force", [False, True])
    def test_a_folder_is_refused(self, tmp_path, force):
        with pytest.raises(OutputExistsError, match="is a folder; name a file in it"):
            write_tensors(tmp_path, {"a": Y}, force=force)

    @pytest.mark.parametrize("force", [False, True])
    def test_a_device_or_a_pipe_is_refused(self, tmp_path, force):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", Path("/dev/null")):
            with pytest.raises(OutputExistsError, match="is no regular file and would be lost"):
                write_tensors(path, {"a": Y}, force=force)
        assert Path("/dev/null").is_char_device()

    def test_a_folder_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(InputError, match=r"there is no folder .*gone to write a\.safetensors into; make it first"):
            write_tensors(tmp_path / "gone" / "a.safetensors", {"a": Y})

    def test_a_name_that_no_file_can_have_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="cannot be written: File name too long; choose another name"):
            write_tensors(tmp_path / ("n" * 300), {"a": Y})

    def test_a_name_as_long_as_a_file_can_have_is_taken(self, tmp_path):
        write_tensors(tmp_path / ("\u00e9" * 127), {"a": Y})
        assert names_in(tmp_path) == ["\u00e9" * 127]

    def test_a_link_stays_a_link_and_its_target_is_replaced(self, tmp_path):
        (tmp_path / "far").mkdir()
        (tmp_path / "far" / "target").write_text("old")
        (tmp_path / "link").symlink_to("far/target")
        write_tensors(tmp_path / "link", {"a": Y}, force=True)
        assert (tmp_path / "link").is_symlink()
        assert rawfile.read(tmp_path / "far" / "target")[0]["a"][2] == Y.tobytes()

    def test_the_file_has_the_permissions_that_any_new_file_has(self, tmp_path):
        (tmp_path / "ordinary").touch()
        write_tensors(tmp_path / "a.safetensors", {"a": Y})
        assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


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


class TestKill:
    """A process that is killed while it writes leaves the old file or the new one, whole."""

    def test_while_tensors_are_written(self, tmp_path):
        path = tmp_path / "a.safetensors"
        script = """
            import itertools, sys
            import numpy as np
            from wncore.dumps import write_tensors
            for i in itertools.count(int(sys.argv[2])):
                write_tensors(sys.argv[1], {"a": np.full((500, 1000), i)[:, ::-1], "b": np.full(7, i)}, {"i": str(i)}, True)
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


class TestShards:
    """A dump in several files of bounded size."""

    TENSORS = {  # noqa: RUF012
        "fc.input": np.arange(40 * 6, dtype=np.float32).reshape(40, 6),
        "fc.output": np.arange(40 * 3, dtype=np.float64).reshape(40, 3),
        "fc.weight": np.ones((3, 6), np.float32),
        "blocks.0.hook_pre": np.arange(10 * 4 * 2, dtype=np.float16).reshape(10, 4, 2),
        "tokens.mask": (np.arange(40) % 5 > 0),
    }

    def data_bytes(self, path: Path) -> int:
        return sum(len(content) for _, _, content in rawfile.read(path)[0].values())

    @given(size=st.integers(240, 3000), length=st.sampled_from([1, 2, 4, 5, 10]))
    def test_no_shard_is_larger_than_asked_and_the_dump_is_the_same(self, size, length, tmp_path_factory):
        folder = tmp_path_factory.mktemp("shards") / "dump"
        *shards, index = write_dump(folder, self.TENSORS, sequence_length=length, shard_bytes=size)
        assert names_in(folder) == sorted(path.name for path in [*shards, index])
        assert all(self.data_bytes(path) <= size for path in shards)
        dump = open_dump(folder)
        assert dump.files == tuple(shards)
        fc, hook = dump.layers["fc"], dump.layers["blocks.0.hook_pre"]
        for part in ("input", "output", "weight"):
            assert getattr(fc, part).read().tobytes() == self.TENSORS[f"fc.{part}"].tobytes()
        assert hook.output.read().tobytes() == self.TENSORS["blocks.0.hook_pre"].tobytes()
        tokens = fc.tokens()
        assert tokens.keep.tolist() == self.TENSORS["tokens.mask"].tolist()
        assert tokens.sequence.tolist() == (np.arange(40) // length)[self.TENSORS["tokens.mask"]].tolist()

    @pytest.mark.parametrize("name", ["input", "fc.inputs", "fc.output", "blocks.0.hook_pre"])
    def test_whatever_holds_tokens_is_cut_between_sequences(self, tmp_path, name):
        *shards, _ = write_dump(tmp_path / "dump", {name: Y}, sequence_length=3, shard_bytes=7 * Y[0].nbytes)
        assert [rawfile.read(path)[0][name][1][0] for path in shards] == [6, 6]

    def test_the_last_sequence_may_be_shorter(self, tmp_path):
        *shards, _ = write_dump(
            tmp_path / "dump", {"fc.output": Y[:11]}, sequence_length=3, shard_bytes=3 * Y[0].nbytes
        )
        assert [rawfile.read(path)[0]["fc.output"][1][0] for path in shards] == [3, 3, 3, 2]

    def test_the_index_names_the_files_of_each_tensor(self, tmp_path):
        *shards, index = write_dump(tmp_path / "dump", {"a.output": Y, "b.output": Y[:2]}, shard_bytes=Y.nbytes // 2)
        content = json.loads(index.read_text())
        assert content["weight_map"] == {"a.output": [shards[0].name, shards[1].name], "b.output": [shards[2].name]}
        assert content["metadata"]["total_size"] == Y.nbytes + Y[:2].nbytes

    @pytest.mark.parametrize(
        ("tensors", "says"),
        [
            ({"fc.output": Y}, "fc.output does not fit into shards of 100 bytes; it needs 160 at least"),
            ({"fc.weight": Y}, "fc.weight does not fit into shards of 100 bytes; it needs 480 at least"),
            ({"tokens.mask": np.ones(101, bool)}, "tokens.mask does not fit into shards of 100 bytes; it needs 101"),
        ],
    )
    def test_what_cannot_be_cut_small_enough_is_refused(self, tmp_path, tensors, says):
        with pytest.raises(InputError, match=says):
            write_dump(tmp_path / "dump", tensors, sequence_length=4, shard_bytes=100)

    def test_a_set_that_exists_is_refused_without_force(self, tmp_path):
        write_dump(tmp_path / "dump", {"fc.output": Y}, shard_bytes=Y.nbytes)
        with pytest.raises(OutputExistsError):
            write_dump(tmp_path / "dump", {"fc.output": -Y}, shard_bytes=Y.nbytes)
        write_dump(tmp_path / "dump", {"fc.output": -Y}, shard_bytes=Y.nbytes, force=True)
        np.testing.assert_array_equal(open_dump(tmp_path / "dump").layers["fc"].output.read(), -Y)

    @pytest.mark.parametrize("failing", range(3))
    def test_a_failure_at_any_shard_leaves_the_old_set(self, tmp_path, monkeypatch, failing):
        write_dump(tmp_path / "dump", {"fc.output": Y}, shard_bytes=Y.nbytes // 3)
        before, flush, count = names_in(tmp_path / "dump"), os.fsync, iter(range(9))

        def fail(handle):
            if next(count) == failing:
                raise OSError(28, "No space left on device")
            flush(handle)

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(
            WncoreError, match=rf"dump-0000{failing + 1}-of-00003\.safetensors could not be written: No space"
        ):
            write_dump(tmp_path / "dump", {"fc.output": -Y}, shard_bytes=Y.nbytes // 3, force=True)
        assert names_in(tmp_path / "dump") == before
        np.testing.assert_array_equal(open_dump(tmp_path / "dump").layers["fc"].output.read(), Y)


def arguments(dump: Path, out: Path) -> list[str]:
    return ["score", str(dump), "-o", str(out), "--force", "--quiet", "--top", "0", "--backend", "numpy"]


def score(dump: Path, out: Path, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "wncore_cli", *arguments(dump, out)]
    command[1:3] = ["-c", "import wncore_cli; wncore_cli.run()"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def kill_while(command: list[str], chance: random.Random, stderr: bool = False) -> None:
    """Start a process that reports each file it has written; kill it at some moment after the first."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} if stderr else {"stdout": subprocess.PIPE}
    with subprocess.Popen(command, **streams) as process:
        report = process.stderr if stderr else process.stdout
        assert report is not None
        assert report.readline()
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
