"""Tensors that stay on the disk: rows and columns are read when asked for, never through mapped memory.

(Pages of a mapped file count as resident memory, so reading a large file through a map would break `--memory`.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wncore.dumps.header import DTYPES, Entry, Header, open_regular, stamp
from wncore.errors import DumpError, NonFiniteError, ShapeError
from wncore.matrix import Matrix, cut_rows

CHUNK = 8 * 2**20
"""Bytes read at a time when only some columns are kept."""
UNIT = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
"""Unit roundoff by dtype; bfloat16's is doubled, since some frameworks truncate. Float8 is coarser still."""
PLACES = {
    "input": "token {}, channel {}",
    "output": "token {}, channel {}",
    "weight": "neuron {}, channel {}",
    "bias": "neuron {}",
    "gram": "channels {} and {}",
    "sparsity": "neuron {}",
}
"""What the rows and columns of each part are."""
NEAR = 2**16
"""Bytes of a row from which it pays to read only the wanted columns."""


class OnHost:
    """What matrices have in common that NumPy reads: in files, or in memory."""

    read: Callable[..., NDArray[Any]]
    pick: Callable[..., NDArray[Any]]
    check_finite: Callable[..., None]

    def doubles(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        """Return some rows as float64.

        Raises
        ------
        NonFiniteError
            If they hold NaN or infinity.
        """
        part = self.read(rows) if isinstance(rows, slice) else self.pick(rows)
        self.check_finite(part)
        return as_floats(part).astype(np.float64)


@dataclass(frozen=True)
class Tensor(OnHost):
    """A matrix (rows, columns) in one file or, piece by piece along its rows, in several."""

    part: str
    """What it is in its layer: "input", "output", "weight", "bias", "gram"; or "mask", "scale", "sparsity"."""
    pieces: tuple[tuple[Header, Entry], ...]

    @property
    def name(self) -> str:
        """As it is called in its file, the first if there are several."""
        return self.pieces[0][1].name

    @property
    def entries(self) -> list[Entry]:
        """Its pieces, without their files."""
        return [entry for _, entry in self.pieces]

    @property
    def rows(self) -> int:
        """Their number in all pieces."""
        return sum(entry.rows for _, entry in self.pieces)

    @property
    def columns(self) -> int:
        """Their number in each piece."""
        return self.pieces[0][1].columns

    @property
    def dtype(self) -> str:
        """As safetensors calls it: "BF16", "F32"."""
        return self.pieces[0][1].dtype

    @property
    def itemsize(self) -> int:
        """Bytes of a value on the disk."""
        return DTYPES[self.dtype].itemsize

    @property
    def resident(self) -> bool:
        """Never: it is read from the disk."""
        return False

    def read(self, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[Any]:
        """Read a part as it is stored: (rows, columns), in the file's dtype; slices have no step."""
        first, last, row_step = rows.indices(self.rows)
        left, right, column_step = columns.indices(self.columns)
        if row_step != 1 or column_step != 1:
            raise ShapeError(f"{self.name} is read without steps; got {rows} and {columns}, index what was read")
        out = np.empty((max(last - first, 0), max(right - left, 0)), DTYPES[self.pieces[0][1].dtype])
        done = start = 0
        for header, entry in self.pieces:
            low, high = max(first - start, 0), min(last - start, entry.rows)
            if low < high:
                _read(header, self.name, entry, low, out[done : done + high - low], left)
                done += high - low
            start += entry.rows
        return out

    def pick(self, rows: NDArray[np.int64], columns: slice = slice(None)) -> NDArray[Any]:
        """Read some rows, their indices rising, as they are stored: (rows, columns)."""
        parts = [self.read(slice(0, 0), columns)]
        for part in self.chunks(self.columns * self.itemsize, 4 * CHUNK):
            wanted = rows[slice(*np.searchsorted(rows, (part.start, part.stop)))]
            if len(wanted):
                parts.append(self.read(part, columns)[wanted - part.start])
        return np.concatenate(parts)

    def floats(self, runs: Sequence[slice], keep: NDArray[np.bool_], columns: slice = slice(None)) -> NDArray[Any]:
        """Read those rows of some runs that count, of all rows `keep` (rows,), as floats: (n, columns).

        Raises
        ------
        NonFiniteError
            If one of them holds NaN or infinity.
        """
        parts: list[NDArray[Any]] = []
        for rows in runs:
            part = self.read(rows, columns)[keep[rows]]
            self.check_finite(part, keep)
            parts.append(as_floats(part))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def chunks(self, row_bytes: int, budget: int) -> Iterator[slice]:
        """Cut the rows so that `row_bytes` for each row of a slice stay below `budget`."""
        return cut_rows(self.rows, row_bytes, budget)

    def check_finite(self, part: NDArray[Any], keep: NDArray[np.bool_] | None = None) -> None:
        """Raise `NonFiniteError` for the whole tensor if a part of it that was read holds NaN or infinity.

        Only the rows that count, `keep` (rows,), are looked at.
        """
        if is_finite(part):
            return
        count, first = 0, None
        for rows in self.chunks(self.columns * self.itemsize, CHUNK):
            bad = ~finite(self.read(rows))
            if keep is not None:
                bad &= keep[rows, None]
            if first is None and bad.any():
                row, column = np.argwhere(bad)[0]
                first = (rows.start + int(row), int(column))
            count += int(bad.sum())
        place, stored = first or ("?", "?"), self._stored_at(*first) if first else ""  # "?": it was mended meanwhile
        what, remedy = PLACES.get(self.part, "row {}, column {}").format(*place), "replace such values"
        if self.part in ("input", "output"):
            remedy = "leave such tokens out with tokens.mask"
        total = f"its {self.rows * self.columns} values"
        if keep is not None and not keep.all():
            total = f"the {int(keep.sum()) * self.columns} values that count"
        raise NonFiniteError(
            f"{self.name} holds NaN or infinity: {count} of {total}, the first at {stored}"
            f"{what}; {remedy}, or capture the layer again in a wider dtype"
        )

    def _stored_at(self, row: int, column: int) -> str:
        """Say where a value lies along the axes of its file, where rows and columns do not."""
        for header, entry in self.pieces:
            if row < entry.rows:
                index = list(map(int, np.unravel_index(row * entry.columns + column, entry.shape)))
                if len(self.pieces) > 1:
                    return f"{index} in {header.path.name}, "
                return f"{index}, " if len(entry.shape) > 2 else ""
            row -= entry.rows
        return ""


def _read(header: Header, name: str, entry: Entry, low: int, out: NDArray[Any], left: int) -> None:
    """Fill out (k, c) with the columns from `left` of the rows from `low`."""
    width, itemsize = entry.columns, out.itemsize
    if not out.size:
        return
    with open_regular(header.path) as file:
        _check_stamp(header, file)
        file.seek(entry.offset + low * width * itemsize)
        if out.shape[1] == width:
            _fill(file, out, header, name)
        elif out.shape[1] * itemsize >= NEAR or width * itemsize > CHUNK:
            for i in range(len(out)):
                file.seek(entry.offset + ((low + i) * width + left) * itemsize)
                _fill(file, out[i], header, name)
        else:
            step = max(1, CHUNK // (width * itemsize))
            buffer = np.empty((min(step, len(out)), width), out.dtype)
            for first in range(0, len(out), step):
                part = buffer[: min(step, len(out) - first)]
                _fill(file, part, header, name)
                out[first : first + len(part)] = part[:, left : left + out.shape[1]]
        _check_stamp(header, file)


def _check_stamp(header: Header, file: FileIO) -> None:
    if stamp(file) != header.stamp:
        raise DumpError(f"{header.path} changed while it was being read; wait for its writer and start again")


def _fill(file: FileIO, array: NDArray[Any], header: Header, name: str) -> None:
    view = array.reshape(-1).view(np.uint8).data
    while len(view):
        count = file.readinto(view[: 2**30])
        if not count:
            raise DumpError(f"{header.path} ends within {name}; it is truncated, write it again")
        view = view[count:]


def is_finite(array: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(finite(array).all())


def finite(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Say of each value whether it is finite; of bfloat16 quickly: no exponent is all ones."""
    if array.dtype == ml_dtypes.bfloat16:
        return (array.view(np.uint16) & 0x7F80) != 0x7F80
    return np.isfinite(array)


def as_floats(array: NDArray[Any]) -> NDArray[Any]:
    """Widen to the dtype of arithmetic, exactly: float64 stays, everything narrower becomes float32."""
    if array.dtype == ml_dtypes.bfloat16:  # the upper half of a float32
        wide = array.view(np.uint16).astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32, copy=False)


def computed_in(*parts: Matrix | None) -> str:
    """Return the dtype that tensors are computed in: float64 if one is stored so, else float32."""
    return "float64" if any(part is not None and part.dtype == "F64" for part in parts) else "float32"
