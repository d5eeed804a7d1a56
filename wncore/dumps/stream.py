"""Writing a safetensors file whose tensors come a few rows at a time, and are held nowhere else.

The header comes first and room for all tensors is taken on the disk at once, so that a disk that is too small is known
before the work. Each row has its place. The file is, byte for byte, that of `write_tensors` for the same arrays.
"""

import errno
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wncore.dumps.write import encode_header, in_order
from wncore.errors import InputError, ShapeError, WncoreError
from wncore.files import replacing

Shapes = Mapping[str, tuple[DTypeLike, Sequence[int]]]
"""The dtype and the shape of each tensor."""
Span = tuple[int, int]
"""The first of some neighbouring rows, and the first behind them."""


class TensorWriter:
    """Takes the rows of a file's tensors in any order, each once. A row is all that one index of the first axis has."""

    def __init__(self, path: Path, file: FileIO, tensors: Mapping[str, NDArray[Any]], start: int) -> None:
        self.path, self._file, self._tensors = path, file, tensors
        self._starts: dict[str, int] = {}
        for name, tensor in in_order(tensors):
            self._starts[name] = start
            start += tensor.nbytes
        self.size = start
        """Of the whole file, in bytes."""
        self._written: dict[str, list[Span]] = {name: [] for name in tensors}

    def write(self, name: str, first_row: int, rows: NDArray[Any]) -> None:
        """Write rows (k, ...) of a tensor (n, ...) to their place, from `first_row` on; a single number is one row.

        Raises
        ------
        InputError
            If the file has no such tensor.
        ShapeError
            If the rows have another dtype or width, lie beyond the end, or were written before.
        WncoreError
            If writing fails, on a full disk say.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            held = ", ".join(sorted(self._tensors)[:4]) or "nothing"
            raise InputError(f"{self.path} was laid out without {name[:80]}; it holds {held}, write one of these")
        if rows.ndim == 0 or _native(rows.dtype) != _native(tensor.dtype) or rows.shape[1:] != tensor.shape[1:]:
            raise ShapeError(
                f"{name} is {tensor.dtype} of shape {tensor.shape}; got rows that are {rows.dtype} of shape "
                f"{rows.shape}, write rows as it was laid out"
            )
        last, end = first_row + len(rows), len(tensor)
        if first_row < 0 or last > end:
            raise ShapeError(
                f"{name} has {end} rows; got {first_row} to {last}, which lie beyond them, lay it out with more"
            )
        if not len(rows):
            return
        spans = _joined(self._written[name], (first_row, last))
        if spans is None:
            raise ShapeError(f"{name}: some of the rows {first_row} to {last} were written before; write each once")
        content = np.ascontiguousarray(rows, tensor.dtype).reshape(-1).view(np.uint8).data
        try:
            _put(self._file, content, self._starts[name] + first_row * (tensor.nbytes // end))
        except OSError as error:  # said here, where it is known which of several open files it is
            raise WncoreError(
                f"{self.path} could not be written: {error.strerror or error}; nothing was changed"
            ) from error
        self._written[name] = spans

    def check_complete(self) -> None:
        """Raise `ShapeError` for a tensor of which rows were not written."""
        for name, tensor in self._tensors.items():
            spans = self._written[name]
            if len(tensor) and spans != [(0, len(tensor))]:
                first = spans[0][1] if spans and spans[0][0] == 0 else 0
                count = len(tensor) - sum(high - low for low, high in spans)
                raise ShapeError(
                    f"{self.path} is not complete: {name} lacks {count} of {len(tensor)} rows, the first is {first}; "
                    f"write them all"
                )


@contextmanager
def streamed_tensors(
    path: str | Path,
    shapes: Shapes,
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
    lasting: bool = True,
) -> Generator[TensorWriter, None, None]:
    """Yield a writer of the tensors of one file, which takes its name, whole, at the end of the `with`.

    After an exception there is no file, or the old one. Only what is `lasting` is flushed to the disk.

    >>> from tempfile import TemporaryDirectory
    >>> from wncore.dumps import open_dump
    >>> with TemporaryDirectory() as folder:
    ...     with streamed_tensors(f"{folder}/a", {"fc.output": ("float32", (3, 2))}) as writer:
    ...         writer.write("fc.output", 2, np.ones((1, 2), np.float32))
    ...         writer.write("fc.output", 0, np.zeros((2, 2), np.float32))
    ...     open_dump(f"{folder}/a").layers["fc"].output.read().tolist()
    [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]

    Raises
    ------
    OutputExistsError
        If the file exists and `force` is off.
    InputError, ShapeError
        If a name, metadata or a dtype cannot be stored, or at the end if a row is missing.
    WncoreError
        If writing fails, on a full disk say; an old file is left as it was.
    """
    path = Path(path)
    # arrays of one value that claim a shape: a header needs no more
    tensors = {
        name: np.broadcast_to(np.zeros((), _native(kind)), tuple(shape)) for name, (kind, shape) in shapes.items()
    }
    header = encode_header(path, tensors, metadata or {})
    rows = {name: tensor if tensor.ndim else tensor[None] for name, tensor in tensors.items()}
    with replacing(path, force, lasting) as temporary:
        with FileIO(temporary, "r+") as file:
            writer = TensorWriter(path, file, rows, 8 + len(header))
            _reserve(file, writer.size)
            _put(file, memoryview(len(header).to_bytes(8, "little") + header), 0)
            yield writer
        writer.check_complete()


def _native(dtype: DTypeLike) -> np.dtype[Any]:
    """Return a dtype in the byte order of the disk."""
    return np.dtype(dtype).newbyteorder("<")


def _put(file: FileIO, content: memoryview, place: int) -> None:
    """Write bytes to their place in the file; the system may take less than all at a time."""
    while content:
        done = os.pwrite(file.fileno(), content[: 2**30], place)
        content, place = content[done:], place + done


def _joined(spans: Sequence[Span], new: Span) -> list[Span] | None:
    """Add a span to others, neighbours joined to one; None if it overlaps with one of them."""
    joined: list[Span] = []
    for low, high in sorted([*spans, new]):
        if joined and low < joined[-1][1]:
            return None
        if joined and low == joined[-1][1]:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return joined


def _reserve(file: FileIO, size: int) -> None:
    """Take room on the disk now; where the file system cannot, only the size is set."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        else:
            return
    file.truncate(size)
