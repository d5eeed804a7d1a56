"""Euclidean norms that neither overflow nor underflow, whatever the unit."""

import numpy as np
from numpy.typing import NDArray

from wncore.normal import Float


def norms(a: NDArray, axis: int) -> Float:
    """Return ||a||_2 along an axis, in float64; the largest entry is taken out before squaring.

    >>> norms(np.array([[3e200, 4e200]]), axis=1)
    array([5.e+200])
    """
    wide = a.astype(np.float64)
    size = np.abs(wide).max(axis=axis, initial=0.0, keepdims=True)
    wide /= np.where(size > 0, size, 1.0)
    return size.squeeze(axis) * np.sqrt(np.square(wide).sum(axis=axis))
