"""Euclidean norms that neither overflow nor underflow, whatever the unit; sums whose order is their own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Array
from wncore.normal import Float


def norms(a: NDArray[Any], axis: int) -> Float:
    """Return ||a||_2 along an axis, in float64; the largest entry is taken out before squaring.

    >>> norms(np.array([[3e200, 4e200]]), axis=1)
    array([5.e+200])
    """
    wide = a.astype(np.float64)
    size = np.abs(wide).max(axis=axis, initial=0.0, keepdims=True)
    wide /= np.where(size > 0, size, 1.0)
    return size.squeeze(axis) * np.sqrt(np.square(wide).sum(axis=axis))


def row_sums(a: Array) -> Array:
    """Add up rows, (m, n) -> (m,), half to half: the same bits by any library, on any device, however many rows.

    >>> row_sums(np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]]))
    array([7., 8.])
    """
    while a.shape[1] > 1:
        half, odd = divmod(a.shape[1], 2)
        joined = a[:, :half] + a[:, half : 2 * half]
        if odd:
            joined[:, 0] += a[:, -1]
        a = joined
    return a[:, 0]
