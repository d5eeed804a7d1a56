"""Masked least squares as `wncore.pruning.least_squares.resolve`, row by row: the same normal equations by Cholesky."""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs

from wncore.fast.compiled import compiled
from wncore.fast.tiles import Each, tiles
from wncore.normal import Float

ROWS = 8
"""Rows of a task: each is a factorisation of its own."""

(_posv,) = get_lapack_funcs(("posv",), dtype=np.float64)


@compiled
def _gather(h, kept, out):
    """Copy the lower triangle of H at some inputs: (d, d), (s,) -> (s, s); to LAPACK, it is the upper one."""
    for i in range(len(kept)):
        row, target = h[kept[i]], out[i]
        for j in range(i + 1):
            target[j] = row[kept[j]]


def resolve(w: NDArray, h: Float, mask: NDArray[np.bool_], each: Each) -> NDArray:
    """Move each row's kept weights to where they make up best for the pruned ones: (m, d), (d, d), (m, d) -> (m, d).

    Computed in float64, and rounded once to the dtype of the weights.
    """
    out, wanted = np.where(mask, w, w.dtype.type(0)), np.empty(w.shape)

    def multiply(rows: slice) -> None:
        wanted[rows] = np.where(mask[rows], 0.0, w[rows]) @ h

    def solve(rows: slice) -> None:
        scratch = np.empty(h.size)
        for i in range(rows.start, rows.stop):
            kept = np.flatnonzero(mask[i])
            if len(kept) and np.any(w[i] != out[i]):
                out[i, kept] = w[i, kept] + _solve(h, kept, wanted[i, kept], scratch)

    each(multiply, tiles(len(w)))
    each(solve, tiles(len(w), ROWS))
    return out


def _solve(h: Float, kept: NDArray[np.int64], wanted: Float, scratch: Float) -> NDArray:
    part = scratch[: len(kept) ** 2].reshape(len(kept), len(kept))
    _gather(h, kept, part)
    _, change, info = _posv(part.T, wanted, lower=0, overwrite_a=1)
    return np.linalg.solve(h[np.ix_(kept, kept)], wanted) if info else change
