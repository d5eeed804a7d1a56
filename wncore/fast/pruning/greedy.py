"""Exact greedy Optimal Brain Surgeon without an inverse for each row.

All rows start from the same H^-1. When t weights of a row are gone, its own inverse is H^-1 - V'V, where V (t, d) holds
the scaled columns that were removed: a Cholesky factorisation whose pivots are the weights that cost least. A step
forms one column of it, in t d operations instead of d^2.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs

from wncore.fast.compiled import compiled
from wncore.fast.grams import mirror
from wncore.fast.pruning.selection import select_span
from wncore.fast.tiles import Each, tiles
from wncore.normal import Float
from wncore.pruning import greedy
from wncore.pruning.cells import Cells
from wncore.pruning.damping import Damped

ROWS = 4
"""Rows of a task."""
MARGIN = 1.25
"""How much longer than the mean a row's trace is, when rows are compared together."""

_potrf, _potri = get_lapack_funcs(("potrf", "potri"), dtype=np.float64)


@compiled
def _subtract(column, removed, steps, q):
    """Subtract column q of V'V, four rows of V at a time."""
    s = 0
    while s + 4 <= steps:
        a, b, c, d = removed[s, q], removed[s + 1, q], removed[s + 2, q], removed[s + 3, q]
        for j in range(len(column)):
            column[j] -= a * removed[s, j] + b * removed[s + 1, j] + c * removed[s + 2, j] + d * removed[s + 3, j]
        s += 4
    while s < steps:
        a = removed[s, q]
        for j in range(len(column)):
            column[j] -= a * removed[s, j]
        s += 1


@compiled
def _trace(w, inverse, least_diagonal, dead, width, quotas, order, costs):
    """Prune one row until `order` is full: which weights in turn, and at what cost; a cell loses `quotas` at most.

    [H_SS^-1]_qq is at least 1 / H_qq: where rounding has eaten up a nearly singular inverse, that stands in.
    """
    d = len(w)
    weights, diagonal, left, open_ = w.copy(), np.diag(inverse).copy(), quotas.copy(), np.ones(d, np.bool_)
    removed = np.empty((len(order), d))
    for step in range(len(order)):
        q, least = -1, np.inf
        for j in range(d):
            if open_[j] and left[j // width] > 0:
                cost = 0.0 if dead[j] else weights[j] * weights[j] / diagonal[j]
                if q < 0 or cost < least:
                    q, least = j, cost
        order[step], costs[step] = q, least
        open_[q] = False
        left[q // width] -= 1
        column = removed[step]
        column[:] = inverse[q]
        _subtract(column, removed, step, q)
        root = np.sqrt(diagonal[q])
        error = weights[q] / root
        for j in range(d):
            column[j] /= root
            weights[j] -= error * column[j]
            diagonal[j] = max(diagonal[j] - column[j] * column[j], least_diagonal[j])


def obs(w: Float, damped: Damped, cells: Cells, each: Each) -> NDArray[np.bool_]:
    """Return the mask that greedy pruning leaves: (m, d) -> (m, d); its weights are the least-squares solution."""
    m, d = w.shape
    together = len(cells.counts) < m
    if together and cells.counts.shape[1] > 1:
        # What a row may still lose in a block depends on all other rows: there is no trace of it alone.
        return greedy.obs(w, damped, cells)[1]
    inverse, least_diagonal = _inverse(damped.h), 1 / damped.h.diagonal()
    orders, costs = np.zeros((m, d), np.int64), np.full((m, d), np.inf)
    quotas = np.full((m, 1), d) if together else cells.counts

    def trace(rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        def work(part: slice) -> None:
            for i in rows[part]:
                order, cost = orders[i, : lengths[i]], costs[i, : lengths[i]]
                _trace(w[i], inverse, least_diagonal, damped.dead, cells.width, quotas[i], order, cost)

        each(work, tiles(len(rows), ROWS))

    if together:
        taken = _merge(trace, costs, int(cells.counts[0, 0]))
    else:
        taken = quotas.sum(axis=1)
        trace(np.arange(m), taken)
    mask = np.ones((m, d), np.bool_)
    for kept, order, count in zip(mask, orders, taken, strict=True):
        kept[order[:count]] = False
    return mask


def _inverse(h: Float) -> Float:
    """Return H^-1, symmetric to the bit and the inverse of some matrix near H: V'V has to cancel all of it."""
    inverse = _potri(_potrf(h, lower=0)[0], lower=0)[0].T  # LAPACK's upper half is the lower one here
    mirror(inverse)
    return inverse


def _merge(trace: Callable, costs: Float, count: int) -> NDArray[np.int64]:
    """Return how many weights each row loses when, each time, the row whose next one is cheapest loses it: (m,).

    A weight that costs less than one before it in its row goes right after that one. So what counts is the running
    maximum of a row's costs: the lowest of all rows are pruned, ties to the first row. A trace that turns out to be
    too short is made anew, twice as long.
    """
    m, d = costs.shape
    rows, lengths = np.arange(m), np.full(m, min(d, int(MARGIN * count / m) + 1))
    while True:
        trace(rows, lengths)
        taken = np.sum(~select_span(np.maximum.accumulate(costs, axis=1), np.array([count])), axis=1)
        rows = np.flatnonzero((taken >= lengths) & (lengths < d))
        if not len(rows):
            return taken
        lengths[rows] = np.minimum(d, 2 * lengths[rows])
