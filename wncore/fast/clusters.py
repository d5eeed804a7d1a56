"""One step of Lloyd's algorithm as `wncore.clustering`: a tile of tokens goes through all of it while it is in cache.

Distances are sums of squared differences in the inputs' dtype; what is added up over tokens is float64.
"""

import numpy as np
from numpy.typing import NDArray

from wncore.fast.compiled import compiled
from wncore.fast.squares import TILE, VECTOR, nearest
from wncore.fast.tiles import Each, tiles
from wncore.normal import Float

TOKENS = 8192
"""Tokens of one task; the sums of each are added in order."""


@compiled
def _label(x, first, columns, squares, lanes, least, labels):
    """Write the nearest of all centroids to the tokens of a tile, ties to the first: (TILE,)."""
    for i in range(TILE):
        least[i], labels[i] = np.inf, 0
    for block in range(len(columns)):
        nearest(x, first, columns, block, squares, lanes)
        for i in range(TILE):
            if squares[i] < least[i]:
                least[i], labels[i] = squares[i], block * columns.shape[2] + lanes[i]


@compiled(fastmath={"reassoc", "contract"})  # so that a sum of squares is done in vectors
def _add(x, t, centroids, c, sums):
    """Add token t to the sum of its cluster c; return its squared distance from the centroid."""
    square = 0.0
    for j in range(x.shape[1]):
        value = np.float64(x[t, j])
        gap = value - np.float64(centroids[c, j])
        sums[c, j] += value
        square += gap * gap
    return square


@compiled
def _assign(x, centroids, columns, labels, sums, counts, inertia):
    """Do the tokens of one task."""
    squares, least = np.empty(TILE, x.dtype), np.empty(TILE, x.dtype)
    lanes, chosen = np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    whole = len(x) // TILE * TILE
    rest = np.zeros((TILE, x.shape[1]), x.dtype)
    rest[: len(x) - whole] = x[whole:]
    for first in range(0, len(x), TILE):
        if first < whole:
            _label(x, first, columns, squares, lanes, least, chosen)
        else:
            _label(rest, 0, columns, squares, lanes, least, chosen)
        for t in range(first, min(len(x), first + TILE)):
            c = chosen[t - first]
            labels[t] = c
            counts[c] += 1
            inertia[c] += _add(x, t, centroids, c, sums)


def lloyd(x: NDArray, centroids: NDArray, each: Each) -> tuple[NDArray[np.int64], Float, NDArray[np.int64], Float]:
    """Give each point to its nearest centroid: (n, r), (s, k, r) -> (s, n), (s, k, r), (s, k), (s, k)."""
    points, centres = np.ascontiguousarray(x), np.ascontiguousarray(centroids, x.dtype)
    (n, r), (s, k, _) = points.shape, centres.shape
    tasks, columns = tiles(n, TOKENS), [_columns(start) for start in centres]
    labels, counts = np.empty((s, n), np.int64), np.zeros((s, len(tasks), k), np.int64)
    sums, inertia = np.zeros((s, len(tasks), k, r)), np.zeros((s, len(tasks), k))

    def work(task: int) -> None:
        i, part = divmod(task, len(tasks))
        totals = sums[i, part], counts[i, part], inertia[i, part]
        _assign(points[tasks[part]], centres[i], columns[i], labels[i, tasks[part]], *totals)

    each(work, range(s * len(tasks)))
    return labels, sums.sum(axis=1), counts.sum(axis=1), inertia.sum(axis=1)


def _columns(centroids: NDArray) -> NDArray:
    """Lay out the centroids component by component, a vector of them at a time: (k, r) -> (blocks, r, lanes).

    Lanes to spare hold centroids that are infinitely far.
    """
    lanes = VECTOR // centroids.itemsize
    blocks = -(-len(centroids) // lanes)
    padded = np.full((blocks * lanes, centroids.shape[1]), np.inf, centroids.dtype)
    padded[: len(centroids)] = centroids
    return np.ascontiguousarray(padded.reshape(blocks, lanes, -1).transpose(0, 2, 1))
