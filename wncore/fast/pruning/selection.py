"""The lowest scores of each cell, as `wncore.pruning.cells.select` has them: exact counts, ties to the lowest index."""

import numpy as np
from numpy.typing import NDArray

from wncore.fast.compiled import compiled
from wncore.fast.tiles import Each, tiles
from wncore.pruning.cells import Cells

NARROW = 32
"""Cells of fewer columns are compared pair by pair, without sorting."""


@compiled
def _prune_narrow(scores, width, counts, kept):
    """Keep all but the lowest scores of each cell of each row: the rank of each, by comparing all pairs."""
    m, d = scores.shape
    for i in range(m):
        row, keep = scores[i], kept[i]
        for c in range(counts.shape[1]):
            first, last = c * width, min(d, (c + 1) * width)
            for j in range(first, last):
                rank = 0
                for q in range(first, j):
                    rank += row[q] <= row[j]
                for q in range(j + 1, last):
                    rank += row[q] < row[j]
                keep[j] = rank >= counts[i, c]


@compiled
def _prune_up_to(scores, counts, thresholds, kept):
    """Prune what is below the threshold, and the first ones equal to it until the count is reached.

    Where the count is 0, the threshold is the lowest score: nothing is below it, and none of its equals is needed.
    """
    m, d = scores.shape
    for i in range(m):
        below = 0
        for j in range(d):
            below += scores[i, j] < thresholds[i]
        equal = counts[i] - below
        for j in range(d):
            kept[i, j] = scores[i, j] > thresholds[i]
            if scores[i, j] == thresholds[i]:
                kept[i, j] = equal <= 0
                equal -= 1


def select_span(scores: NDArray, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Prune the lowest scores of one span of columns: (m, width), (m,) or (1,) -> mask (m, width)."""
    rows = scores if len(counts) == len(scores) else scores.reshape(1, -1)
    place = np.maximum(counts - 1, 0)
    # np.partition is fast for one place, and np.sort for many rows of any places: both are vectorised
    ordered = np.partition(rows, place[0], axis=1) if len(rows) == 1 else np.sort(rows, axis=1)
    mask = np.empty(rows.shape, np.bool_)
    _prune_up_to(rows, counts, ordered[np.arange(len(rows)), place], mask)
    return mask.reshape(scores.shape)


def select_rows(scores: NDArray, width: int, counts: NDArray[np.int64], kept: NDArray[np.bool_]) -> None:
    """Write the mask of some rows that are compared one by one: (m, d), (m, c) -> kept (m, d)."""
    if width < NARROW:
        _prune_narrow(scores, width, counts, kept)
        return
    for c in range(counts.shape[1]):
        span = slice(c * width, (c + 1) * width)
        kept[:, span] = select_span(scores[:, span], counts[:, c])


def select(scores: NDArray, cells: Cells, each: Each) -> NDArray[np.bool_]:
    """Prune the lowest scores of each cell: (m, d) -> mask (m, d)."""
    kept = np.empty(scores.shape, np.bool_)
    if len(cells.counts) == len(scores):
        each(lambda rows: select_rows(scores[rows], cells.width, cells.counts[rows], kept[rows]), tiles(len(scores)))
    else:
        for c in range(cells.counts.shape[1]):
            kept[:, cells.span(c)] = select_span(scores[:, cells.span(c)], cells.counts[:, c])
    return kept
