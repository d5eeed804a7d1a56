"""Writing: what is written is read back alike whatever its layout in memory; what cannot be stored is refused."""

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import rawfile
from dump_samples import names_in
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from wncore.dumps import open_dump, write_dump, write_tensors
from wncore.errors import InputError, OutputExistsError, ShapeError
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

    @pytest.mark.parametrize("name", ["__metadata__", "", "half a \ud800 character"])
    def test_a_name_that_the_format_lacks_is_refused(self, tmp_path, name):
        with pytest.raises(InputError, match=r"a\.safetensors: .*; choose another"):
            write_tensors(tmp_path / "a.safetensors", {name: Y})
        assert names_in(tmp_path) == []

    def test_a_name_that_is_too_long_to_be_read_back_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"n\.\.\. is a name of 1001 characters; 1000 can be read, choose another"):
            write_dump(tmp_path / "a.safetensors", {"n" * 1001: Y})
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
