"""The exact distance of `wncore.wasserstein`, in one pass over sorted outputs.

A cell of the Gaussian that z_i lies outside of contributes |z_i / n - (integral of Phi^-1 over the cell)|; only the few
cells that z_i falls into need Phi.
"""

import math

import numpy as np

from wncore.fast.blocks import columns
from wncore.fast.compiled import compiled


def sorted_block(y: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return the neurons first..last as sorted rows."""
    rows = columns(y, first, last)
    rows.sort(axis=1)
    return rows


@compiled
def _origin_and_scale(row):
    """Mean and deviation of a sorted row in three numbers: z = (value - middle - mean) / deviation."""
    n = len(row)
    middle = np.float64(row[n // 2])
    total = 0.0
    for value in row:
        total += value - middle
    mean = total / n
    square = 0.0
    for value in row:
        off = (value - middle) - mean
        square += off * off
    return middle, mean, math.sqrt(square / n)


@compiled
def _distance(row, edges, means):
    n = len(row)
    middle, mean, deviation = _origin_and_scale(row)
    if not deviation > 0.0:
        return 0.0
    scale, share, total = 1.0 / deviation, 1.0 / n, 0.0
    for i in range(n):
        z = ((row[i] - middle) - mean) * scale
        if edges[i] < z < edges[i + 1]:
            below = 0.5 * math.erfc(-z * math.sqrt(0.5))
            peak = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
            ends = math.exp(-0.5 * edges[i] ** 2) + math.exp(-0.5 * edges[i + 1] ** 2)
            total += z * (2.0 * below - (2 * i + 1) * share) + 2.0 * peak - ends / math.sqrt(2.0 * math.pi)
        else:
            total += abs(z * share - means[i])
    return total


@compiled
def exact(rows, edges, means, out):
    """Write the distance of every sorted row (w, n) into out (w,)."""
    for j in range(len(rows)):
        row = rows[j]
        low, high = np.float64(row[0]), np.float64(row[-1])
        if low == high:
            out[j] = 0.0
            continue
        size = max(abs(low), abs(high))
        if 1e-100 < size < 1e100:
            out[j] = _distance(row, edges, means)
        else:  # squares would leave the range of float64: change the unit by a power of two
            exponent = math.frexp(size)[1]
            scaled = np.empty(len(row))
            for i in range(len(row)):
                scaled[i] = math.ldexp(np.float64(row[i]), -exponent)
            out[j] = _distance(scaled, edges, means)
