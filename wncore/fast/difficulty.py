"""The mapping difficulty of `wncore.difficulty`: differences in compiled code, medians by NumPy's selection."""

import math

import numpy as np

from wncore.fast.blocks import columns
from wncore.fast.compiled import compiled


@compiled
def input_distances(x, left, right):
    """Euclidean distances of the paired inputs, (p,) float64."""
    out = np.empty(len(left))
    for k in range(len(left)):
        total = 0.0
        for c in range(x.shape[1]):
            off = np.float64(x[left[k], c]) - np.float64(x[right[k], c])
            total += off * off
        out[k] = math.sqrt(total)
    return out


@compiled
def _differences(rows, left, right, closeness, gaps, weighted):
    for j in range(len(rows)):
        total = 0.0
        for k in range(len(left)):
            gap = abs(np.float64(rows[j, left[k]]) - np.float64(rows[j, right[k]]))
            gaps[j, k] = gap
            total += gap * closeness[k]
        weighted[j] = total / len(left)


def block(y, left, right, closeness, first, last):
    """Return the difficulty of the neurons first..last; closeness (p,) is max ||dx|| / ||dx||."""
    rows = columns(y, first, last)
    gaps, weighted = np.empty((last - first, len(left))), np.empty(last - first)
    _differences(rows, left, right, closeness, gaps, weighted)
    median = np.median(gaps, axis=1, overwrite_input=True)
    return np.where(median > 0, weighted / np.where(median > 0, median, 1.0), 0.0)
