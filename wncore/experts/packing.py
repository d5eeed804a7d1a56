"""Sparse weights as a bit mask and the values that it keeps; whatever goes in comes out, to the bit.

A weight is left out if all its bits are zero: -0.0 is kept. Bit j % 8 of byte j // 8 of a row, the lowest bit first,
says whether column j is kept; the bits behind the last column are 0.
"""

import numpy as np
from numpy.typing import NDArray

_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.int64)


def pack(weights: NDArray) -> tuple[NDArray[np.uint8], NDArray]:
    """Split weights into mask and values: (..., d) -> (..., ceil(d / 8)), (kept,) in the order of the weights.

    >>> mask, values = pack(np.array([[0.0, 2.0, -0.0], [0.0, 0.0, 3.0]]))
    >>> mask.tolist(), values.tolist()
    ([[6], [4]], [2.0, -0.0, 3.0])
    """
    kept = has_bits(weights)
    return np.packbits(kept, axis=-1, bitorder="little"), weights[kept]


def unpack(mask: NDArray[np.uint8], values: NDArray, d: int) -> NDArray:
    """Put the values back: (..., ceil(d / 8)), (kept,) -> (..., d)."""
    weights = np.zeros((*mask.shape[:-1], d), values.dtype)
    weights[np.unpackbits(mask, axis=-1, count=d, bitorder="little").view(bool)] = values
    return weights


def has_bits(weights: NDArray) -> NDArray[np.bool_]:
    """Say which weights are anything but +0.0."""
    return np.ascontiguousarray(weights).view(f"u{weights.dtype.itemsize}") != 0


def count_kept(mask: NDArray[np.uint8]) -> int:
    """Count the bits that are set."""
    return int(_BITS_SET[mask].sum())


def padding_is_clear(mask: NDArray[np.uint8], d: int) -> bool:
    """Whether no bit behind the last of d columns is set."""
    return d % 8 == 0 or not (mask[..., -1] >> d % 8).any()
