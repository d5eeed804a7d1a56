"""Files filled a few rows at a time: the same bytes as all at once, or no file."""

import errno
import os
import subprocess
import sys
from contextlib import ExitStack
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from dump_samples import names_in
from hypothesis import given
from hypothesis import strategies as st

from wncore.dumps import open_dump, write_tensors
from wncore.dumps.stream import streamed_tensors
from wncore.errors import InputError, OutputExistsError, ShapeError, WncoreError

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
          ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz, np.bool_, np.uint8, np.int8, np.int16, np.int32,
          np.int64, np.uint16, np.uint32, np.uint64, ">f4"]  # fmt: skip
LETTERS = st.characters(codec="utf-8")
X = np.arange(12, dtype=np.float32).reshape(6, 2)
SHAPES = {"fc.output": (np.float32, (6, 2))}


@st.composite
def tensors(draw):
    """Arrays of any dtype and shape, of random bits."""
    names = draw(st.lists(st.text(LETTERS, min_size=1, max_size=3), unique=True, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    found = {}
    for name in names:
        dtype = np.dtype(draw(st.sampled_from(DTYPES), name))
        shape = draw(st.lists(st.integers(0, 5), max_size=3), "shape")
        bits = rng.integers(0, 2 if dtype == np.bool_ else 256, (*shape, dtype.itemsize), np.uint8)
        found[name] = bits.view(dtype).reshape(shape)
    return found


@st.composite
def pieces(draw, found):
    """Calls of `write` that together cover every array once, in any order: name, first row, rows."""
    calls = []
    for name, array in found.items():
        rows = array if array.ndim else array[None]
        cuts = sorted({0, len(rows), *draw(st.lists(st.integers(0, len(rows)), max_size=4), "cuts")})
        calls += [(name, low, rows[low:high]) for low, high in pairwise(cuts)]
    return draw(st.permutations(calls), "order")


class TestBytes:
    """What is written piece by piece is what is written at once."""

    @given(data=st.data())
    def test_the_file_is_that_of_write_tensors(self, data, tmp_path_factory):
        arrays = data.draw(tensors(), "tensors")
        metadata = data.draw(st.dictionaries(st.text(LETTERS, max_size=3), st.text(LETTERS, max_size=3), max_size=3))
        folder = tmp_path_factory.mktemp("stream")
        write_tensors(folder / "whole", arrays, metadata)
        shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}
        with streamed_tensors(folder / "pieces", shapes, metadata) as writer:
            for call in data.draw(pieces(arrays), "calls"):
                writer.write(*call)
        assert (folder / "pieces").read_bytes() == (folder / "whole").read_bytes()
        assert names_in(folder) == ["pieces", "whole"]

    @pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: np.repeat(a, 2, 1)[:, ::2], lambda a: a[::-1]])
    def test_rows_of_any_layout_in_memory_are_written_alike(self, tmp_path, layout):
        rows = layout(X)
        with streamed_tensors(tmp_path / "a", SHAPES) as writer:
            writer.write("fc.output", 0, rows)
        np.testing.assert_array_equal(open_dump(tmp_path / "a").layers["fc"].output.read(), rows)

    def test_the_system_may_write_less_than_it_is_given(self, tmp_path, monkeypatch):
        whole = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda handle, content, place: whole(handle, content[:3], place))
        with streamed_tensors(tmp_path / "a", SHAPES, {"key": "value"}) as writer:
            writer.write("fc.output", 0, X)
        monkeypatch.undo()
        write_tensors(tmp_path / "b", {"fc.output": X}, {"key": "value"})
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    @pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, None])
    def test_a_file_system_that_takes_no_room_beforehand_will_do(self, tmp_path, monkeypatch, number):
        if number is None:
            monkeypatch.delattr(os, "posix_fallocate")
        else:
            monkeypatch.setattr(os, "posix_fallocate", _failing(number))
        with streamed_tensors(tmp_path / "a", SHAPES) as writer:
            writer.write("fc.output", 0, X)
        np.testing.assert_array_equal(open_dump(tmp_path / "a").layers["fc"].output.read(), X)


class TestRefusals:
    """Rows that do not fit are refused when they come, missing ones at the end; then there is no file."""

    @pytest.mark.parametrize(
        ("calls", "says"),
        [
            ([], r"is not complete: fc\.output lacks 6 of 6 rows, the first is 0; write them all"),
            ([(0, X[:2]), (3, X[3:])], r"is not complete: fc\.output lacks 1 of 6 rows, the first is 2; write them"),
            ([(2, X[2:])], r"lacks 2 of 6 rows, the first is 0"),
            ([(0, X), (5, X[5:])], r"fc\.output: some of the rows 5 to 6 were written before; write each once"),
            ([(4, X[4:]), (0, X[:2]), (1, X[:4])], r"some of the rows 1 to 5 were written before"),
            ([(1, X)], r"fc\.output has 6 rows; got 1 to 7, which lie beyond them"),
            ([(-1, X)], r"fc\.output has 6 rows; got -1 to 5, which lie beyond them"),
            ([(0, X.astype(np.float64))], r"is float32 of shape \(6, 2\); got rows that are float64 of shape \(6, 2\)"),
            ([(0, X.view(np.int32))], r"is float32 of shape .* got rows that are int32"),
            ([(0, X[:, :1])], r"got rows that are float32 of shape \(6, 1\), write rows as it was laid out"),
            ([(0, X[0])], r"got rows that are float32 of shape \(2,\)"),
            ([(0, X[0, 0])], r"got rows that are float32 of shape \(\)"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path, calls, says):
        with pytest.raises(ShapeError, match=says), streamed_tensors(tmp_path / "a", SHAPES) as writer:  # noqa: PT012
            for first, rows in calls:
                writer.write("fc.output", first, np.asarray(rows))
        assert names_in(tmp_path) == []

    def test_a_tensor_that_was_not_laid_out(self, tmp_path):
        says = r"a was laid out without up\.input; it holds fc\.output, write one of these"
        with pytest.raises(InputError, match=says), streamed_tensors(tmp_path / "a", SHAPES) as writer:
            writer.write("up.input", 0, X)
        assert names_in(tmp_path) == []

    def test_what_cannot_be_stored_is_refused_before_anything_is_written(self, tmp_path):
        for shapes, metadata, error in [
            ({"a": ("complex128", (2,))}, {}, ShapeError),
            ({"__metadata__": ("float32", (2,))}, {}, InputError),
            (SHAPES, {"key": "\ud800"}, InputError),
        ]:
            with pytest.raises(error), streamed_tensors(tmp_path / "a", shapes, metadata):
                raise AssertionError("reached")
        assert names_in(tmp_path) == []


class TestAtomicity:
    """The file appears whole, at the end."""

    def test_a_file_that_exists_is_refused_without_force(self, tmp_path):
        (tmp_path / "a").write_text("old")
        with pytest.raises(OutputExistsError), streamed_tensors(tmp_path / "a", SHAPES):
            raise AssertionError("reached")
        with streamed_tensors(tmp_path / "a", SHAPES, force=True) as writer:
            writer.write("fc.output", 0, X)
            assert (tmp_path / "a").read_text() == "old"
        np.testing.assert_array_equal(open_dump(tmp_path / "a").layers["fc"].output.read(), X)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_an_exception_leaves_the_old_file(self, tmp_path, error):
        (tmp_path / "a").write_text("old")
        with pytest.raises(error), streamed_tensors(tmp_path / "a", SHAPES, force=True) as writer:  # noqa: PT012
            writer.write("fc.output", 0, X)
            raise error
        assert names_in(tmp_path) == ["a"]
        assert (tmp_path / "a").read_text() == "old"

    def test_a_disk_that_is_too_small_is_known_before_the_first_row(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "posix_fallocate", _failing(errno.ENOSPC))
        says = "a could not be written: No space left on device; nothing was changed"
        with pytest.raises(WncoreError, match=says), streamed_tensors(tmp_path / "a", SHAPES):
            raise AssertionError("reached")
        assert names_in(tmp_path) == []

    def test_the_file_that_cannot_be_written_is_named_among_several(self, tmp_path, monkeypatch):
        says = "a could not be written: Input/output error; nothing was changed"
        with ExitStack() as stack:
            stack.enter_context(pytest.raises(WncoreError, match=says))
            writer = stack.enter_context(streamed_tensors(tmp_path / "a", SHAPES))
            stack.enter_context(streamed_tensors(tmp_path / "b", SHAPES))
            monkeypatch.setattr(os, "pwrite", _failing(errno.EIO))
            writer.write("fc.output", 0, X)
        assert names_in(tmp_path) == []

    def test_the_room_is_taken_at_once(self, tmp_path):
        with streamed_tensors(tmp_path / "a", {"fc.output": ("float32", (2**18, 1))}) as writer:
            (partial,) = tmp_path.iterdir()
            assert partial.stat().st_size == writer.size > 2**20
            for first in range(0, 2**18, 2**16):
                writer.write("fc.output", first, np.zeros((2**16, 1), np.float32))

    def test_nothing_is_held_in_memory(self, tmp_path):
        code = f"""
import resource, sys, numpy as np
from wncore.dumps.stream import streamed_tensors
rows = np.ones((2**12, 2**8), np.float32)
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with streamed_tensors({str(tmp_path / "a")!r}, dict(a=("float32", (2**16, 2**8)))) as writer:
    for first in range(0, 2**16, 2**12):
        writer.write("a", first, rows)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
assert grown < 2**24, f"{{grown}} bytes more"  # a quarter of the file
"""
        subprocess.run([sys.executable, "-c", code], check=True)
        assert (tmp_path / "a").stat().st_size > 2**26

    def test_a_writer_writes_nowhere_after_the_end(self, tmp_path):
        with pytest.raises(ShapeError), streamed_tensors(tmp_path / "a", SHAPES) as writer:
            writer.write("fc.output", 0, X[:3])
        with pytest.raises(ValueError, match="closed file"):
            writer.write("fc.output", 3, X[3:])


def _failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail
