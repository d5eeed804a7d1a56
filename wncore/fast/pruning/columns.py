"""The compiled part of a SparseGPT sweep: one block of columns, for one tile of neurons.

The block is transposed, so that a column of all neurons lies side by side and is swept at once.
"""

import numpy as np

from wncore.fast.compiled import compiled
from wncore.fast.tiles import ROWS

STEP = 4
"""Columns whose errors are spread together."""


@compiled
def _select(columns, kept, value, counts):
    """Prune the lowest scores of one cell of each neuron, (width, ROWS): ranks, by comparing all pairs."""
    scores, ranks = np.empty(columns.shape), np.empty(ROWS, np.int64)
    for j in range(len(columns)):
        for r in range(ROWS):
            scores[j, r] = columns[j, r] * columns[j, r] * value[j]
    for j in range(len(columns)):
        ranks[:] = 0
        for i in range(len(columns)):
            if i < j:
                for r in range(ROWS):
                    ranks[r] += scores[i, r] <= scores[j, r]
            else:
                for r in range(ROWS):
                    ranks[r] += scores[i, r] < scores[j, r]
        for r in range(len(counts)):
            kept[j, r] = ranks[r] >= counts[r]


@compiled
def _lay_grids(columns, grids, bits):
    """Write the step and the zero of each neuron, (m, 2): `wncore.pruning.quantisation.quantisation_grid`."""
    for r in range(len(grids)):
        low = high = 0.0
        for j in range(len(columns)):
            low, high = min(low, columns[j, r]), max(high, columns[j, r])
        step = (high - low) / (2**bits - 1)
        grids[r, 0] = step if step > 0.0 else 1.0
        grids[r, 1] = np.rint(-low / grids[r, 0])


@compiled
def _settle(column, kept, grids, bits, pivot, errors):
    """Prune or round one column, and write its errors."""
    top = 2.0**bits - 1.0
    for r in range(len(grids)):
        new = column[r]
        if bits > 0:
            step, zero = grids[r, 0], grids[r, 1]
            new = (min(max(np.rint(new / step) + zero, 0.0), top) - zero) * step
        new = new if kept[r] else 0.0
        errors[r] = (column[r] - new) / pivot
        column[r] = new


@compiled
def _spread(columns, errors, u, first):
    """Subtract errors (STEP, ROWS) times their rows of U from the columns from `first`."""
    for q in range(first, len(columns)):
        a, b, c, d = u[0, q], u[1, q], u[2, q], u[3, q]
        for r in range(ROWS):
            columns[q, r] -= a * errors[0, r] + b * errors[1, r] + c * errors[2, r] + d * errors[3, r]


@compiled
def sweep(weights, kept, u, first, last, value, width, counts, bits, span, grids):
    """Sweep over the columns first..last of a block of at most ROWS neurons; errors reach to its end, n.

    (m, n), mask (m, n), U (n + STEP, n), value (n,). With `width`, cells are selected on the way and lose `counts`
    (c, m); with `bits`, weights are rounded to `grids` (m, 2), laid anew every `span` columns if that is not 0.
    """
    m, n = weights.shape
    columns, keep, errors = np.zeros((n, ROWS)), np.empty((n, ROWS), np.bool_), np.empty((STEP, ROWS))
    for r in range(m):
        for q in range(first, n):
            columns[q, r], keep[q, r] = weights[r, q], kept[r, q]
    j = first
    while j < last:
        end = min(last, j + STEP)
        if width > 0:
            if j % width == 0:
                _select(columns[j : j + width], keep[j : j + width], value[j : j + width], counts[j // width])
            end = min(end, j - j % width + width)
        if span > 0:
            if j % span == 0:
                _lay_grids(columns[j : j + span], grids, bits)
            end = min(end, j - j % span + span)
        errors[:] = 0.0
        for p in range(j, end):
            _settle(columns[p], keep[p], grids, bits, u[p, p], errors[p - j])
            for q in range(p + 1, end):
                for r in range(ROWS):
                    columns[q, r] -= u[p, q] * errors[p - j, r]
        _spread(columns, errors, u[j : j + STEP], end)
        j = end
    for r in range(m):
        for q in range(first, n):
            weights[r, q], kept[r, q] = columns[q, r], keep[q, r]
