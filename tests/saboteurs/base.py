"""What the saboteurs share."""

import numpy as np

from wncore.histograms import histogram
from wncore.reference import NumpyBackend


class Saboteur(NumpyBackend):
    """Right where a subclass does not say otherwise."""

    dtypes = ("float64", "float32")


def histogram_of_bits(y, edges, bits):
    """The histogram, heights in a bin being whole numbers of so many bits, which add up exactly."""
    counts, sums, powers = histogram(y, edges)
    for k, edge in enumerate(edges):
        place, width = np.searchsorted(edge, y[:, k]), np.diff(edge)
        inside = (place > 0) & (place < len(edge))
        place = place[inside] - 1
        heights = np.rint((y[inside, k].astype(np.float64) - edge[place]) / width[place] * 2.0**bits).astype(np.int64)
        high, low = (np.bincount(place, part, len(width)) for part in (heights >> 25, heights & 2**25 - 1))
        sums[k, 1:-1] = (high * 2.0**25 + low) * 2.0**-bits * width
    return counts, sums, powers
