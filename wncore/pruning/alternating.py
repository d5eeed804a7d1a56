"""ADMM: alternate between the best dense weights and the best sparse ones, until they agree."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.normal import Float
from wncore.pruning.cells import Cells, select
from wncore.pruning.damping import Damped

PENALTIES = (0.1, 1.0)
"""First and last penalty for a difference between dense and sparse weights, in units of the scaled diagonal."""


def admm(w: ArrayLike, damped: Damped, cells: Cells, iterations: int) -> tuple[Float, NDArray[np.bool_]]:
    """Find a sparse layer by the alternating direction method of multipliers: (m, d) -> (m, d), mask.

    Minimises tr (W'-W) H (W'-W)' over W' = Z with Z sparse. With scaled inputs (unit diagonal) and penalty r:
    W' = (W H - V + r Z) (H + r)^-1;  Z = the largest of W' + V / r in each cell;  V += r (W' - Z). The penalty grows
    geometrically from 0.1 to 1: while it is small the mask still moves. One eigenproblem serves all penalties. Source:
    ALPS, Meng et al. 2024, arXiv:2406.07831, which raises the penalty by how much the mask has changed; a fixed
    schedule of 60 steps gives a lower error than its rule and depends on no rounding.
    """
    weights, unit, alive = np.asarray(w, np.float64), np.sqrt(damped.h.diagonal()), ~damped.dead
    dense = weights * unit * alive
    eigenvalues, basis = np.linalg.eigh(damped.h / np.outer(unit, unit))
    target = dense @ basis * eigenvalues
    mask = select(np.abs(dense), cells)
    sparse = np.where(mask, dense, 0.0)
    dual = np.zeros_like(dense)
    for penalty in np.geomspace(*PENALTIES, iterations):
        close = (target + (penalty * sparse - dual) @ basis) / (eigenvalues + penalty) @ basis.T
        wanted = close + dual / penalty
        mask = select(np.abs(wanted) * alive, cells)
        sparse = np.where(mask, wanted, 0.0)
        dual += penalty * (close - sparse)
    return np.where(alive, sparse / unit, weights * mask), mask
