"""Nothing of a dump is read before it is asked for, parts equal slices of the whole, and changes are noticed."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from dump_samples import Y, only
from hypothesis import given, settings
from hypothesis import strategies as st
from rawfile import pack, write

from wncore.dumps import open_dump, tensor
from wncore.errors import DumpError, ShapeError


class TestLaziness:
    """Nothing is read before it is asked for, and then no more than that."""

    SPAN = 1 << 40

    def sparse(self, path: Path) -> Path:
        """Write a file of a terabyte that takes a few kilobytes: all zeros but for one row."""
        rows = self.SPAN // 4096
        header = {"fc.output": {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [0, self.SPAN]}}
        start = pack(header)
        path.write_bytes(start)
        os.truncate(path, len(start) + self.SPAN)
        with path.open("rb+") as file:
            file.seek(len(start) + 12345678 * 4096)
            file.write(np.arange(1024, dtype=np.float32).tobytes())
        return path

    @staticmethod
    def read_bytes() -> int:
        counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(counts["rchar"])

    @pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes read as Linux does")
    def test_opening_reads_the_header_only_and_a_row_its_row(self, tmp_path):
        path = self.sparse(tmp_path / "a.safetensors")
        before = self.read_bytes()
        output = only(open_dump(path)).output
        row = output.read(slice(12345678, 12345679))[0]
        assert self.read_bytes() - before < 20_000
        np.testing.assert_array_equal(row, np.arange(1024))

    def test_a_terabyte_is_opened_where_no_gigabyte_of_addresses_is_left(self, tmp_path):
        path = self.sparse(tmp_path / "a.safetensors")
        script = """
            import resource, sys
            from wncore.dumps import open_dump, tensor
            used = int(open("/proc/self/statm").read().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))
            print(open_dump(sys.argv[1]).layers["fc"].output.read(slice(12345678, 12345679))[0, 5])
        """
        command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
        assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout == "5.0\n"

    def test_a_few_columns_of_a_row_that_fits_no_memory_can_be_read(self, tmp_path):
        start = pack({"fc.output": {"dtype": "F32", "shape": [2, self.SPAN // 8], "data_offsets": [0, self.SPAN]}})
        path = tmp_path / "a.safetensors"
        path.write_bytes(start)
        os.truncate(path, len(start) + self.SPAN)
        assert only(open_dump(path)).output.read(columns=slice(10**9, 10**9 + 3)).tolist() == [[0.0] * 3] * 2


class TestParts:
    """Rows and columns are read as NumPy would slice the whole."""

    @settings(deadline=None)
    @given(data=st.data())
    def test_a_part_equals_the_slice_of_the_whole(self, data, tmp_path_factory):
        heights = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4), "rows of the pieces")
        width = data.draw(st.integers(1, 9), "columns")
        dtype = data.draw(st.sampled_from([np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2]), "dtype")
        whole = np.arange(sum(heights) * width).reshape(-1, width).astype(dtype)
        bounds = st.one_of(st.none(), st.integers(-12, 30))
        rows, columns = (slice(data.draw(bounds, "from"), data.draw(bounds, "to")) for _ in range(2))
        folder = tmp_path_factory.mktemp("parts")
        pieces = np.split(whole, np.cumsum(heights)[:-1])
        paths = [write(folder / f"{i}.safetensors", {"fc.output": piece}) for i, piece in enumerate(pieces)]
        output = only(open_dump(*paths)).output
        got, want = output.read(rows, columns), whole[rows, columns]
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        assert got.tobytes() == want.tobytes()

    @pytest.mark.parametrize("columns", [slice(0, 3), slice(70_000, 90_000), slice(1, 90_000), slice(89_999, 90_000)])
    def test_wide_rows_are_read_alike_whichever_way_is_quicker(self, tmp_path, columns):
        whole = np.random.default_rng(1).standard_normal((5, 90_000)).astype(np.float32)
        output = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": whole}))).output
        np.testing.assert_array_equal(output.read(slice(1, 4), columns), whole[1:4, columns])

    def test_steps_are_refused(self, tmp_path):
        output = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": Y}))).output
        for rows, columns in ((slice(None, None, 2), slice(None)), (slice(None), slice(None, None, -1))):
            with pytest.raises(ShapeError, match=r"fc\.output is read without steps"):
                output.read(rows, columns)

    def test_chunks_cover_the_rows_once_and_keep_the_budget(self, tmp_path):
        output = only(open_dump(write(tmp_path / "a.safetensors", {"fc.output": Y}))).output
        chunks = list(output.chunks(row_bytes=16, budget=40))
        assert [list(range(6))[chunk] for chunk in chunks] == [[0, 1], [2, 3], [4, 5]]
        assert len(list(output.chunks(row_bytes=16, budget=1))) == 6


class TestChanges:
    """A file that is written to meanwhile is noticed."""

    def test_a_file_that_changed_since_it_was_opened_is_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y})
        output = only(open_dump(path)).output
        write(path, {"fc.output": -Y})
        os.utime(path, ns=(0, 0))
        with pytest.raises(DumpError, match="changed while it was being read; wait for its writer"):
            output.read()

    def test_a_file_that_shrank_is_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y})
        output = only(open_dump(path)).output
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(DumpError, match="changed while it was being read"):
            output.read()

    def test_a_file_that_shrinks_while_it_is_read_is_refused(self, tmp_path, monkeypatch):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y})
        output = only(open_dump(path)).output
        header, _ = output.pieces[0]
        os.truncate(path, path.stat().st_size - 8)
        monkeypatch.setattr(tensor, "stamp", lambda file: header.stamp)  # it shrank after this was looked at
        with pytest.raises(DumpError, match=r"a\.safetensors ends within fc\.output; it is truncated, write it again"):
            output.read()

    def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(self, tmp_path, monkeypatch):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y})
        state = path.stat()
        path.unlink()
        os.mkfifo(path)
        monkeypatch.setattr(Path, "stat", lambda self: state)  # it took it after this was looked at
        with pytest.raises(DumpError, match="is not a regular file"):
            open_dump(path)

    def test_a_file_that_was_removed_is_missed(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y})
        output = only(open_dump(path)).output
        path.unlink()
        with pytest.raises(DumpError, match="there is no file"):
            output.read()
