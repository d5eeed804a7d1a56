"""Weights in float8 beside their scales: weight times scale, in float32; other quantised weights are refused.

A scale is one number for all of a weight (m, d), or one for each row, for each group of columns of a row, for each
column, or for each square block: groups and blocks are of a power of two, 128 as DeepSeek-V3 has them (the last may be
cut), or any that divides the axes. Both weight_scale (compressed-tensors) and weight_scale_inv (DeepSeek-V3,
transformers) multiply: the inverse is that of the factor by which the weight was scaled before it was rounded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wncore.dumps.header import DTYPES, Entry, Header
from wncore.dumps.riders import Rider
from wncore.dumps.tensor import CHUNK, Tensor, as_floats, is_finite
from wncore.errors import DumpError

POWERS_OF_TWO = "F8_E8M0"
CUT = 128
"""The one length of a block that need not divide its axis."""
REMEDY = "dequantise it first"

Riders = Sequence[tuple[Rider, Header, Entry]]


@dataclass(frozen=True)
class Scaled(Tensor):
    """A float8 weight (m, d) times its scale (a, b); its dtype is that of the products."""

    scale: Tensor
    block: tuple[int, int]
    """Rows and columns that one number of the scale stands for."""

    @property
    def dtype(self) -> str:
        """F64 if the scale is, else F32: the products take more digits than float8 has."""
        return "F64" if self.scale.dtype == "F64" else "F32"

    def read(self, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[Any]:
        """Read a part, dequantised: (rows, columns)."""
        raw = super().read(rows, columns)
        first, left = rows.indices(self.rows)[0], columns.indices(self.columns)[0]
        out = np.empty(raw.shape, DTYPES[self.dtype])
        step = max(1, CHUNK // max(1, raw.shape[1] * out.itemsize))
        right = np.arange(left, left + raw.shape[1], dtype=np.int64) // self.block[1]
        for start in range(0, len(raw), step):
            part = raw[start : start + step]
            down = (first + start + np.arange(len(part))) // self.block[0]
            scale = as_floats(self.scale.read(slice(down[0], down[-1] + 1)))
            with np.errstate(over="ignore", invalid="ignore"):  # whoever reads it checks that it is finite
                np.multiply(as_floats(part), scale[down - down[0]][:, right], out=out[start : start + step])
        return out

    def check_finite(self, part: NDArray[Any], keep: NDArray[np.bool_] | None = None) -> None:
        """Raise `NonFiniteError` if a part holds NaN or infinity: for the scale, if it does."""
        if not is_finite(part):
            self.scale.check_finite(self.scale.read())
        super().check_finite(part, keep)


def check_activations(tensors: Mapping[str, Tensor], riders: Riders) -> None:
    """Raise if an input or output is float8 and has a scale.

    Raises
    ------
    DumpError
        If so: who rounded them knows how the scale goes with them, and nobody else.
    """
    for part in ("input", "output"):
        scale = next((entry for one, _, entry in riders if one.role == part), None)
        if scale is not None and part in tensors and _is_float8(tensors[part]):
            raise DumpError(f"{tensors[part].name} is {tensors[part].dtype} beside {_told(scale)}; {REMEDY}")


def dequantise(layer: str, weight: Tensor | None, riders: Riders) -> Tensor | None:
    """Return a layer's weight, times its scale if it has one; None if there is none.

    Raises
    ------
    DumpError
        If the weight is quantised in another way.
    """
    holders = [entry for one, _, entry in riders if one.role == "holder"]
    if holders and weight is None:
        raise DumpError(f"{layer}: its weight is quantised, or in parts: {_told(holders[0])}, and no weight; {REMEDY}")
    if weight is None or not weight.rows * weight.columns:
        return weight
    if not _is_float8(weight):
        bound = [entry for one, _, entry in riders if one.role in ("scale", "other", "holder") and not one.loose]
        if bound:
            raise DumpError(
                f"{weight.name} is {weight.dtype} beside {bound[0].name}: is it quantised? {REMEDY}; if it is that "
                f"already, leave {bound[0].name} out"
            )
        return weight
    others = [entry for one, _, entry in riders if one.role in ("other", "holder")]
    if others:
        raise DumpError(f"{weight.name} is {weight.dtype} beside {_told(others[0])}; {REMEDY}")
    scales = [(header, entry) for one, header, entry in riders if one.role == "scale"]
    return _scaled(weight, scales) if scales else weight


def _scaled(weight: Tensor, pieces: Sequence[tuple[Header, Entry]]) -> Scaled:
    """Find out how a weight and its scale go together."""
    entry = pieces[0][1]
    if len({one.name for _, one in pieces}) > 1:
        raise DumpError(f"{weight.name} has two scales, {pieces[0][1].name} and {pieces[1][1].name}; {REMEDY}")
    what = f"{weight.name} is {weight.dtype} {weight.rows} x {weight.columns} and its scale {_told(entry)}"
    if not entry.floating and entry.dtype != POWERS_OF_TWO:
        raise DumpError(f"{what}, of no floating type; {REMEDY}")
    block = _block((weight.rows, weight.columns), entry.shape)
    if block is None:
        raise DumpError(f"{what}: neither one number, nor one for each row or block; {REMEDY}")
    shape = (*entry.shape, 1, 1)[:2]
    copies = [Tensor("scale", ((header, replace(one, shape=shape)),)) for header, one in pieces]
    for (header, one), copy in zip(pieces, copies, strict=True):
        if (one.dtype, one.shape) != (entry.dtype, entry.shape) or copy.read().tobytes() != copies[0].read().tobytes():
            raise DumpError(f"{entry.name} differs between {pieces[0][0].path} and {header.path}; keep the right one")
    return Scaled(weight.part, weight.pieces, copies[0], block)


def _block(weight: tuple[int, int], scale: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the rows and columns that each number of a scale stands for; None if it is not certain.

    >>> [_block((576, 256), scale) for scale in ((), (576,), (576, 8), (5, 2), (18, 8), (3, 1), (3,))]
    [(576, 256), (1, 256), (1, 32), (128, 128), (32, 32), None, None]
    """
    (m, d), (a, b) = weight, (*scale, 1, 1)[:2]
    rows, columns = _length(m, a), _length(d, b)
    if len(scale) > 2 or (len(scale) == 1 and a not in (1, m)) or rows is None or columns is None:
        return None
    if a == m or (a, b) in ((1, 1), (1, d)):
        return rows, columns
    size = rows if a > 1 else columns  # (3, 1) may as well be of three matrices, one below the other
    square = all(length == size or (count == 1 and length <= size) for length, count in ((rows, a), (columns, b)))
    return (rows, columns) if square else None


def _length(n: int, count: int) -> int | None:
    """Return the length of the parts if an axis of n is cut into `count`: all, or a power of two, at most one fits.

    >>> [_length(576, count) for count in (1, 5, 18, 576, 2)]
    [576, 128, 32, 1, None]
    """
    if count == 1:
        return n
    if not 1 < count <= n:
        return None
    length = 1 << (-(-n // count) - 1).bit_length()
    return length if -(-n // length) == count and (length == CUT or n % length == 0) else None


def _is_float8(tensor: Tensor) -> bool:
    return DTYPES[tensor.pieces[0][1].dtype].itemsize == 1


def _told(entry: Entry) -> str:
    return f"{entry.name} ({entry.dtype} {list(entry.shape)})"
