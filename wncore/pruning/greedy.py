"""Exact greedy Optimal Brain Surgeon: one weight at a time."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.normal import Float
from wncore.pruning.cells import Cells
from wncore.pruning.damping import Damped


def obs(w: ArrayLike, damped: Damped, cells: Cells) -> tuple[Float, NDArray[np.bool_]]:
    """Prune the weight that costs least, let the others of its row make up for it, and again: (m, d) -> (m, d), mask.

    Pruning w_q costs w_q^2 / [H^-1]_qq and moves its row by -w_q / [H^-1]_qq H^-1_q:. H^-1 then loses row and column q:
    H^-1 -= H^-1_:q H^-1_q: / [H^-1]_qq. Each row has its own H^-1, so this takes m d^2 numbers: it is the definition,
    for small layers. Source: Hassibi & Stork 1993; Frantar & Alistarh 2022, arXiv:2208.11580.

    >>> from wncore.pruning.damping import damp
    >>> obs([[1.0, 0.9]], damp([[2.0, 1.0], [1.0, 2.0]], ridge=0.0), Cells(2, np.array([[1]])))[0]
    array([[1.45, 0.  ]])
    """
    weights = np.array(w, np.float64)
    m, d = weights.shape
    inverse = np.repeat(np.linalg.inv(damped.h)[None], m, axis=0)
    left, width = cells.counts.copy(), cells.width
    open_ = np.ones((m, d), bool)
    while left.any():
        quota = np.repeat(left, width, axis=1)[:, :d] > 0
        diagonal = np.where(open_, inverse.diagonal(axis1=1, axis2=2), 1.0)
        cost = np.where(open_ & quota, weights**2 / diagonal * ~damped.dead, np.inf)
        i, q = np.unravel_index(np.argmin(cost), cost.shape)
        column = inverse[i, :, q] / inverse[i, q, q]
        weights[i] -= weights[i, q] * column
        inverse[i] -= np.outer(column, inverse[i, q])
        open_[i, q] = False
        weights[i, ~open_[i]] = 0.0  # and not a rounding beside it
        left[i % len(left), q // width] -= 1
    return weights, open_
