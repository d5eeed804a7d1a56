"""The histogram of `wncore.histograms`: a guide table names a bin that is right, or one too low, almost always."""

import numpy as np

from wncore.fast.blocks import transpose
from wncore.fast.compiled import compiled

CHUNK = 8192
"""Tokens that are transposed at a time, so that a neuron's bins are fetched into the cache seldom."""


@compiled
def _place(edges, value):
    """First j with edges[j] >= value; len(edges) if there is none."""
    low, high = 0, len(edges)
    while low < high:
        middle = (low + high) // 2
        if edges[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _build_guide(edges, guide):
    """Cut the span of the inner edges into even cells; guide[c] is the first edge that is not below cell c.

    The outer thirty-second of the edges on each side lies far out and is searched instead.
    """
    last, cells = len(edges) - 1, len(guide)
    start, stop = edges[last // 32], edges[last - last // 32]
    rate = cells / (stop - start) if stop > start else 0.0
    place = 0
    for c in range(cells):
        while place < last and edges[place] < start + (c / rate if rate > 0.0 else 0.0):
            place += 1
        guide[c] = place
    return start, rate


@compiled
def _count_row(row, edges, guide, start, rate, table, cells, powers):
    """Add a row to table (b + 2, 4): left edge, right edge, count, sum of each bin, together in one cache line."""
    top = float(len(guide) - 1)
    for i in range(len(row)):
        cell = (np.float64(row[i]) - start) * rate
        cells[i] = np.int32(cell if cell < top else top) if cell > 0.0 else 0  # so that NaN stays inside too
    last = len(edges) - 1
    centre, unit = edges[(last + 1) // 2], 1.0 / (edges[last] - edges[0])
    s1 = s2 = s3 = s4 = 0.0
    for i in range(len(row)):
        value = np.float64(row[i])
        bin_ = np.uint64(guide[np.uint64(cells[i])])  # unsigned: no test for negative indices
        bin_ += np.uint64(value > table[bin_, 1])
        if value > table[bin_, 1] or value <= table[bin_, 0]:
            bin_ = np.uint64(_place(edges, value))
        table[bin_, 2] += 1.0
        table[bin_, 3] += value - table[bin_, 0]
        t = (value - centre) * unit
        square = t * t
        s1 += t
        s2 += square
        s3 += square * t
        s4 += square * square
    powers[0] += s1
    powers[1] += s2
    powers[2] += s3
    powers[3] += s4


@compiled
def count(y, edges, first, last, counts, sums, powers):
    """Add the neurons first..last of y (n, m) to counts, sums (m, b + 2) and powers (m, 4)."""
    n, bins, width = len(y), edges.shape[1] - 1, last - first
    guides, frames = np.empty((width, 4 * bins), np.int32), np.empty((width, 2))
    tables = np.zeros((width, bins + 2, 4))
    for j in range(width):
        edge = edges[first + j]
        frames[j] = _build_guide(edge, guides[j])
        tables[j, 0, 0], tables[j, bins + 1, 1] = edge[0], np.inf
        tables[j, 1:, 0], tables[j, : bins + 1, 1] = edge, edge
    cells = np.empty(min(n, CHUNK), np.int32)
    for begin in range(0, n, CHUNK):
        part = y[begin : min(n, begin + CHUNK)]
        rows = np.empty((width, len(part)), y.dtype)
        transpose(part, first, rows)
        for j in range(width):
            start, rate = frames[j]
            _count_row(rows[j], edges[first + j], guides[j], start, rate, tables[j], cells, powers[first + j])
    for j in range(width):
        for k in range(bins + 2):
            counts[first + j, k] += np.int64(tables[j, k, 2])
            sums[first + j, k] += tables[j, k, 3]
