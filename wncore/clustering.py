"""K-means: points and centroids that are nearest to each other, found by Lloyd's algorithm from k-means++ seeds.

Sources: Lloyd 1982, doi:10.1109/TIT.1982.1056489; Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful
seeding" (the greedy variant, which draws several candidates for each centroid and keeps the best).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import log
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from wncore.backend import Array, Backend
from wncore.errors import InputError
from wncore.normal import Float
from wncore.threads import cores
from wncore.tick import Tick, idle

SEEDING, SEEDING_CLUSTER = 2**12, 2**8
"""Points, drawn at random, among which centroids are seeded: so many at least, and for each cluster."""
TOGETHER = 2**22
"""Points times starts that go on side by side: 32 MiB of labels."""
SAMPLES = 2**29
"""Bytes of the samples from which seeds are drawn at the same time."""
BETTER = 1e-6
"""Share of the inertia that a later start must save to be kept: rounding must not choose between two that are equal."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """k clusters of n points, in r dimensions."""

    centroids: NDArray
    """(k, r) in the dtype of the points"""
    labels: NDArray[np.int64]
    """(n,) the nearest centroid of each point"""
    counts: NDArray[np.int64]
    """(k,) zero if there are fewer different points than clusters, or iterations ended too soon"""
    inertia: float
    """Sum of squared distances of the points to their centroids."""
    iterations: int
    """Of the best start."""


def lloyd(x: ArrayLike, centroids: ArrayLike) -> tuple[NDArray[np.int64], Float, NDArray[np.int64], Float]:
    """Give each point to its nearest centroid, and sum up what each gets, from s starts at once.

    (n, r), (s, k, r) -> (s, n), (s, k, r), (s, k), (s, k): for each start by itself the labels
    argmin_c ||x_t - centroid_c||, ties to the lowest; and of each cluster the sum of its points, their count, and its
    inertia, sum ||x_t - centroid||^2. All but the labels, which follow each other, are additive over points; an empty
    cluster gives zeros. The sums are float64 whatever dtype x has.

    >>> labels, sums, counts, inertia = lloyd([[0.0], [1.0], [5.0]], [[[1.0], [4.0]]])
    >>> labels, counts, inertia
    (array([[0, 0, 1]]), array([[2, 1]]), array([[1., 1.]]))
    """
    points = np.asarray(x, np.float64)
    labels, sums, counts, inertia = zip(*(_step(points, start) for start in np.asarray(centroids, float)), strict=True)
    return np.array(labels), np.array(sums), np.array(counts), np.array(inertia)


def _step(points: Float, centres: Float) -> tuple[NDArray[np.int64], Float, NDArray[np.int64], Float]:
    """Take the step of one start: (n, r), (k, r) -> (n,), (k, r), (k,), (k,)."""
    gaps = squared_gaps(points, centres).T
    labels = gaps.argmin(axis=0)
    mine = labels == np.arange(len(centres))[:, None]
    sums = np.array([points[chosen].sum(axis=0) for chosen in mine])
    return labels, sums, mine.sum(axis=1), np.where(mine, gaps, 0.0).sum(axis=1)


def squared_gaps(points: Float, centres: Float) -> Float:
    """Return ||x_t - centroid_c||^2 as a sum of squares, which cancels nothing: (n, r), (k, r) -> (n, k)."""
    return np.array([np.square(points - centre).sum(axis=1) for centre in centres]).T


def kmeans(
    x: NDArray,
    k: int,
    backend: Backend,
    *,
    seed: int = 0,
    restarts: int = 10,
    iterations: int = 300,
    tolerance: float = 1e-4,
    tick: Tick = idle,
) -> Clusters:
    """Cluster points by k-means, the best of several starts: (n, r) -> `Clusters`.

    A start ends when the centroids move by less than `tolerance` in relation to the points' variance: the sum of their
    squared moves against the mean variance of a dimension. Seeds are drawn here, so that backends differ by rounding
    alone.

    Raises
    ------
    InputError
        If there are fewer points than clusters, or no cluster, restart or iteration.
    """
    if not 1 <= k <= len(x):
        raise InputError(f"{len(x)} tokens form 1 to {len(x)} clusters; got {k}")
    if restarts < 1 or iterations < 1:
        raise InputError(f"k-means takes at least 1 restart and 1 iteration; got {restarts} and {iterations}")
    with _threads(x, k, getattr(backend, "threads", cores())) as pool:
        drawing = pool.map(lambda restart: _Start.of(x, k, seed, restart), range(restarts if k > 1 else 1))
        native = backend.asarray(x, str(x.dtype))  # meanwhile
        enough = tolerance * _variance(x, native, backend)
        starts = list(drawing)
    best: Clusters | None = None
    together = max(1, TOGETHER // len(x))
    for first in range(0, len(starts), together):
        for found in _descend(native, starts[first : first + together], backend, iterations, enough, x.dtype, tick):
            if best is None or found.inertia < (1 - BETTER) * best.inertia:
                best = found
    assert best is not None
    return best


@contextmanager
def _threads(x: NDArray, k: int, most: int) -> Iterator[ThreadPoolExecutor]:
    """Draw seeds on as many threads as `SAMPLES` has room for, BLAS on one in each."""
    points = min(len(x), max(SEEDING, SEEDING_CLUSTER * k))
    sample = 3 * points * x.shape[1] * max(4, x.itemsize)  # as it is, about its mean, and squared
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(max(1, min(most, SAMPLES // sample))) as pool:
        yield pool


@dataclass(eq=False)
class _Start:
    """One of several starts, on its way."""

    rng: np.random.Generator
    centroids: Float
    moved: float = np.inf
    steps: int = 0

    @classmethod
    def of(cls, x: NDArray, k: int, seed: int, restart: int) -> Self:
        """Draw the seeds of a start."""
        rng = np.random.default_rng([seed, restart])
        enough = max(SEEDING, SEEDING_CLUSTER * k)
        sample = x if len(x) <= enough else x[rng.choice(len(x), enough, replace=False)]
        return cls(rng, seed_centroids(sample, k, rng))


def seed_centroids(x: ArrayLike, k: int, rng: np.random.Generator) -> Float:
    """Draw k of the points by greedy k-means++: (n, r) -> (k, r).

    Each is the best of 2 + log k candidates, drawn in proportion to the squared distance to those drawn before.
    """
    points = np.asarray(x)
    wide = np.result_type(points.dtype, np.float32)  # the time goes into reading the points
    mean = points.mean(axis=0, dtype=np.float64).astype(wide)
    points = points.astype(wide)
    points -= mean
    squares, trials = np.square(points).sum(axis=1), 2 + int(log(k))
    chosen = [int(rng.integers(len(points)))]
    nearest = _gaps(points, squares, chosen)[0]
    while len(chosen) < k:
        weights = np.cumsum(nearest, dtype=np.float64)
        candidates = np.searchsorted(weights, rng.random(trials) * weights[-1], side="right")
        candidates = np.minimum(candidates, len(points) - 1)  # once every different point has been drawn, say
        gaps = np.minimum(nearest, _gaps(points, squares, candidates))
        best = int(gaps.sum(axis=1, dtype=np.float64).argmin())
        chosen.append(int(candidates[best]))
        nearest = gaps[best]
    return np.asarray(x)[chosen].astype(np.float64)


def _gaps(points: NDArray, squares: NDArray, chosen: NDArray[np.int64] | list[int]) -> NDArray:
    """Return the squared distances of all points to some of them: (c, n)."""
    gaps = (-2 * points[chosen]) @ points.T
    gaps += squares[chosen][:, None]
    gaps += squares
    return np.maximum(gaps, 0.0, out=gaps)


def _variance(x: NDArray, native: Array, backend: Backend) -> float:
    """Return the mean variance of a dimension: the inertia of all points as one cluster, by the parallel axes."""
    (n, r), dtype = x.shape, str(x.dtype)
    mean = backend.to_numpy(backend.lloyd(native, backend.asarray(x[None, :1], dtype))[1]) / n
    centre = mean.astype(x.dtype)
    inertia = backend.to_numpy(backend.lloyd(native, backend.asarray(centre, dtype))[3])
    return max(0.0, float(inertia.sum()) / n - float(np.square(mean - centre).sum())) / r


def _descend(
    x: Array,
    starts: list[_Start],
    backend: Backend,
    iterations: int,
    enough: float,
    dtype: np.dtype,
    tick: Tick,
) -> Iterator[Clusters]:
    """Move each centroid to the mean of its points, until they hardly move any more; all starts step together."""

    def step(going: list[_Start]) -> tuple[NDArray, Array, list[NDArray]]:
        centroids = np.array([start.centroids for start in going]).astype(dtype)
        labels, *totals = backend.lloyd(x, backend.asarray(centroids, str(dtype)))
        return centroids, labels, [backend.to_numpy(total) for total in totals]

    while going := [start for start in starts if start.moved > enough and start.steps < iterations]:
        _, labels, (sums, counts, inertia) = step(going)
        means = sums / np.maximum(counts, 1)[..., None]
        for place, start in enumerate(going):
            if not counts[place].all():
                _fill_empty(x, means[place], labels[place], counts[place], inertia[place], backend, start.rng)
            start.moved, start.centroids = float(np.square(means[place] - start.centroids).sum()), means[place]
            start.steps += 1
        tick(0)
    centroids, labels, (_, counts, inertia) = step(starts)
    labels = backend.to_numpy(labels)
    for place, start in enumerate(starts):
        total = float(inertia[place].sum())
        yield Clusters(centroids[place], labels[place].copy(), counts[place], total, start.steps)


def _fill_empty(
    x: Array, means: Float, labels: Array, counts: NDArray, inertia: Float, backend: Backend, rng: np.random.Generator
) -> None:
    """Give each empty cluster a point of one of the widest clusters: the inertia can only fall."""
    labels = backend.to_numpy(labels)  # as long as the points, and needed only here
    widest = np.argsort(-inertia, kind="stable")
    for empty, wide in zip(np.flatnonzero(counts == 0), widest, strict=False):
        if inertia[wide] > 0:
            point = int(rng.choice(np.flatnonzero(labels == wide)))
            means[empty] = backend.to_numpy(x[point : point + 1])[0]
