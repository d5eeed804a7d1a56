"""SparseGPT: one sweep over the columns, each one's error spread over those to its right."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.normal import Float
from wncore.pruning.cells import Cells, select_span
from wncore.pruning.damping import Damped
from wncore.pruning.quantisation import quantisation_grid, quantise

Choose = Callable[[Float, int], NDArray[np.bool_]]
"""What to keep of the cells number c, by their scores now: (m, width), c -> mask (m, width)."""


def inverse_factor(h: ArrayLike) -> NDArray:
    """Return the upper triangular U with H^-1 = U'U: (d, d) -> (d, d).

    1 / U_jj^2 is what is left of H_jj when input j has been explained by the inputs to its right. H read from its end
    has a Cholesky factor that, read from its own end, is U^-1: H itself need not be inverted, which rounds more.
    """
    backwards = np.linalg.cholesky(np.array(h, np.float64)[::-1, ::-1])
    return np.triu(np.linalg.inv(backwards[::-1, ::-1]))


def sparsegpt(
    w: ArrayLike,
    damped: Damped,
    cells: Cells,
    choose: Choose | None = None,
    bits: int | None = None,
    bits_group: int | None = None,
) -> tuple[Float, NDArray[np.bool_]]:
    """Prune columns from left to right, each one's error spread over those to its right: (m, d) -> (m, d), mask.

    Weights are scored by w^2 / U_jj^2: when the sweep reaches their cell, so after the updates of the cells before, or
    at the start where a cell is a whole row. A pruned weight's error e = w / U_jj moves its row by -e U_j,j:. With
    `bits`, kept weights are rounded to a grid, and their error is spread too; the grid is each row's, or that of
    `bits_group` columns of it when the sweep reaches them. `choose` replaces `select_span`: a mask that is known, say.
    Sources: Frantar & Alistarh 2023, arXiv:2301.00774; GPTQ, arXiv:2210.17323. (The updates are lazy there, which
    changes no value.)

    >>> from wncore.pruning.damping import damp
    >>> sparsegpt([[0.9, 1.0]], damp([[2.0, 1.0], [1.0, 2.0]], ridge=0.0), Cells(2, np.array([[1]])))[0]
    array([[0.  , 1.45]])
    """
    weights = np.array(w, np.float64)
    d = weights.shape[1]
    u = inverse_factor(damped.h)
    value = ~damped.dead / u.diagonal() ** 2
    choose = choose or (lambda scores, c: select_span(scores, cells.counts[:, c]))
    kept = np.ones(weights.shape, bool)
    span, grid = bits_group or d, (np.ones(len(weights)), np.zeros(len(weights)))
    for j in range(d):
        if j % cells.width == 0:
            now = cells.span(j // cells.width)
            kept[:, now] = choose(weights[:, now] ** 2 * value[now], j // cells.width)
        new = weights[:, j]
        if bits:
            if j % span == 0:
                grid = quantisation_grid(weights[:, j : j + span], bits)
            new = quantise(new, *grid, bits)
        new = np.where(kept[:, j], new, 0.0)
        error = (weights[:, j] - new) / u[j, j]
        weights[:, j:] -= np.outer(error, u[j, j:])
        weights[:, j] = new
    return weights, kept
