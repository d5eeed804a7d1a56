"""The factor that a SparseGPT sweep needs, without the inverse it is defined by.

H^-1 = U'U with U upper triangular; so H = R R' with R = U^-1, upper triangular too. R is found from H, from the last
columns to the first, in half the operations that inverting H takes, and U is never formed beyond blocks of it.
"""

import numpy as np
from scipy.linalg import get_lapack_funcs

from wncore.fast.tiles import Each, tiles
from wncore.normal import Float
from wncore.pruning.damping import Damped, Damping, add_ridge, damp

PANEL = 128
"""Columns that are factorised at a time."""
CLEAR = 1e-4
"""A ridge of this much of each H_jj makes a Gram matrix positive definite, whatever the rounding of its sums."""

_potrf, _trtri = get_lapack_funcs(("potrf", "trtri"), dtype=np.float64)


def damped_factor(gram: Float, ridge: float, damping: Damping, each: Each) -> tuple[Damped, Float]:
    """Damp a Gram matrix as `wncore.pruning.damping.damp` does, and factorise it: (d, d) -> Damped, R (d, d).

    `damp` factorises, too, to see whether it can be done. A clear ridge needs no such trial.
    """
    state = _clearly_damped(gram, ridge, damping)
    if state is not None:
        try:
            return state, upper_factor(state.h, each)
        except np.linalg.LinAlgError:  # no Gram matrix: let `damp` climb its ladder, or give up
            pass
    state = damp(gram, ridge, damping)
    return state, upper_factor(state.h, each)


def _clearly_damped(gram: Float, ridge: float, damping: Damping) -> Damped | None:
    h, dead = add_ridge(gram, ridge, damping)
    before = gram.diagonal()
    clear = h.diagonal() - before > CLEAR * before
    return Damped(h, dead, ridge, 0) if np.all(clear | dead) else None


def upper_factor(h: Float, each: Each) -> Float:
    """Return the upper triangular R with H = R R': (d, d) -> (d, d).

    Raises
    ------
    numpy.linalg.LinAlgError
        If H is not positive definite.
    """
    r = np.zeros_like(h)
    for first in reversed(range(0, len(h), PANEL)):
        _factorise(h, r, slice(first, min(len(h), first + PANEL)), each)
    return r


def _factorise(h: Float, r: Float, columns: slice, each: Each) -> None:
    """Write some columns of R, given those to their right."""
    panel = np.empty((columns.stop, columns.stop - columns.start))

    def subtract(rows: slice) -> None:
        panel[rows] = h[rows, columns] - r[rows, columns.stop :] @ r[columns, columns.stop :].T

    each(subtract, tiles(columns.stop))
    r[columns, columns], inverse = _small(panel[columns])

    def divide(rows: slice) -> None:
        r[rows, columns] = panel[rows] @ inverse.T

    each(divide, tiles(columns.start))


def _small(h: Float) -> tuple[Float, Float]:
    """Return R and R^-1 of a few columns: read from its end, R R' is the L L' of LAPACK."""
    factor, info = _potrf(np.asfortranarray(h[::-1, ::-1]), lower=0, overwrite_a=1)
    if info or not np.isfinite(factor).all():
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    inverse, _ = _trtri(factor, lower=0)
    return factor.T[::-1, ::-1], inverse.T[::-1, ::-1]


def upper_inverse(r: Float) -> Float:
    """Return R^-1 of an upper triangular block: (n, n) -> (n, n)."""
    return np.ascontiguousarray(_trtri(np.asfortranarray(r), lower=0)[0])
