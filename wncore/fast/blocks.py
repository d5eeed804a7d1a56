"""Blocks of neurons: a cache line's worth of columns, copied so that each becomes a row."""

import numpy as np

from wncore.fast.compiled import compiled

WIDTH = 16
"""Neurons in a block: 16 float32 fill a cache line, so that each line of the outputs is read once."""


@compiled
def transpose(y, first, out):
    """Copy the columns from `first` of y (n, m) into the rows of out (width, n)."""
    width, n = out.shape
    for start in range(0, n, 64):
        stop = min(n, start + 64)
        for j in range(width):
            for i in range(start, stop):
                out[j, i] = y[i, first + j]


def columns(y: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return the neurons first..last of y (n, m) as rows, (last - first, n)."""
    rows = np.empty((last - first, len(y)), y.dtype)
    transpose(y, first, rows)
    return rows
