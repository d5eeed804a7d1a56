"""The fast CPU backend "numba": the definitions again, for speed, certified against them.

Each operation works on blocks of neurons, transposed so that a neuron's outputs lie side by side. A block belongs to
one thread, and no sum crosses a block, so results do not depend on the number of threads or on the width of a tile.
Gram matrices and pruning are matrix products: BLAS on one thread for each tile of rows, for the same reason. Clusters
are added up over runs of tokens, and those in order.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import ThreadpoolController

from wncore import histograms
from wncore.errors import InputError
from wncore.fast import bounds, clusters, difficulty, distance, grams, histogram
from wncore.fast.blocks import WIDTH
from wncore.fast.pruning import least_squares, methods
from wncore.fast.tiles import tiles
from wncore.normal import quantile_cells
from wncore.pruning.methods import PruneSpec
from wncore.reference import NumpyBackend
from wncore.threads import cores

OUTPUTS = 2**24
"""Outputs that are held at a time while they are counted: 64 MiB of float32."""


class NumbaBackend(NumpyBackend):
    """Numba kernels and BLAS on `threads` cores (default: all that this process may use)."""

    name: ClassVar[str] = "numba"
    dtypes: ClassVar[tuple[str, ...]] = ("float64", "float32")

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"the number of threads must be at least 1; got {threads}")
        self.threads = threads or cores()
        self._pool = ThreadPoolExecutor(self.threads)
        self._blas = ThreadpoolController()

    def asarray(self, x: Any, dtype: str) -> np.ndarray:
        """Keep NumPy arrays, made contiguous; floats become `dtype`, integers int64."""
        return np.ascontiguousarray(super().asarray(x, dtype))

    def gaussian_distance(self, y: np.ndarray) -> np.ndarray:
        """Sort each neuron once (NumPy's vectorised sort), then one compiled pass."""
        out = np.empty(y.shape[1])
        edges, means = quantile_cells(len(y))

        def work(first: int, last: int) -> None:
            rows = distance.sorted_block(y, first, last)
            distance.exact(rows, edges, means, out[first:last])

        self._blocks(y.shape[1], work)
        return out

    def choose_edges(self, y: np.ndarray, bins: int) -> np.ndarray:
        """Follow the definition for a few neurons at a time, which fit into the cache."""
        out = np.empty((y.shape[1], bins + 1))

        def work(first: int, last: int) -> None:
            out[first:last] = histograms.choose_edges(y[:, first:last], bins)

        self._blocks(y.shape[1], work)
        return out

    def histogram(self, y: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find bins through a guide table instead of a search."""
        m, bins = len(edges), edges.shape[1] - 1
        counts, sums, powers = np.zeros((m, bins + 2), np.int64), np.zeros((m, bins + 2)), np.zeros((m, 4))
        self._blocks(m, lambda first, last: histogram.count(y, edges, first, last, counts, sums, powers))
        return counts, sums, powers

    def histogram_runs(
        self, y: np.ndarray, edges: np.ndarray, starts: np.ndarray, factor: int
    ) -> tuple[np.ndarray, ...]:
        """Count all, and once more run by run."""
        coarse = np.ascontiguousarray(edges[:, ::factor])
        parts = zip(*(self.histogram(y[a:b], coarse) for a, b in pairwise(starts)), strict=True)
        return *self.histogram(y, edges), *map(np.stack, parts)

    def distance_bounds(
        self, edges: np.ndarray, counts: np.ndarray, sums: np.ndarray, powers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Walk each neuron's bins once."""
        low, high = np.zeros(len(edges)), np.zeros(len(edges))
        self._blocks(
            len(edges), lambda first, last: bounds.bracket(edges, counts, sums, powers, first, last, low, high)
        )
        return low, high

    def mapping_difficulty(self, x: np.ndarray, y: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Take the differences in compiled code, the medians by NumPy's selection."""
        out = np.zeros(y.shape[1])
        if len(left) < 2:
            return out
        dx = difficulty.input_distances(x, left, right)
        closeness = dx.max() / dx

        def work(first: int, last: int) -> None:
            out[first:last] = difficulty.block(y, left, right, closeness, first, last)

        self._blocks(y.shape[1], work)
        return out

    def routed_linear(self, x: np.ndarray, weights: np.ndarray, bias: Any, labels: np.ndarray) -> np.ndarray:
        """Let BLAS multiply, expert by expert, in the input's dtype."""
        quiet = np.errstate(over="ignore", invalid="ignore")  # who asks looks for infinity
        with quiet, self._blas.limit(limits=self.threads, user_api="blas"):
            if len(weights) == 1:
                out = x @ weights[0].T
            else:
                out = np.zeros((len(x), weights.shape[1]), x.dtype)
                for expert, weight in enumerate(weights):
                    mine = np.flatnonzero(labels == expert)
                    out[mine] = x[mine] @ weight.T
            if bias is not None:
                out += bias
        return out

    def linear_histogram(
        self, x: np.ndarray, weights: np.ndarray, bias: Any, labels: np.ndarray, edges: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count the outputs of a few thousand tokens at a time, while they are in the cache."""
        m, bins = len(edges), edges.shape[1] - 1
        counts, sums, powers = np.zeros((m, bins + 2), np.int64), np.zeros((m, bins + 2)), np.zeros((m, 4))
        for tokens in tiles(len(x), max(histogram.CHUNK, OUTPUTS // max(m, 1))):
            y = self.routed_linear(x[tokens], weights, bias, labels[tokens])
            for total, part in zip((counts, sums, powers), self.histogram(y, edges), strict=True):
                total += part
        return counts, sums, powers

    def gram(self, x: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Let BLAS multiply a few thousand tokens in the input's dtype, and add those products in float64."""
        with self._one_blas_thread():
            return grams.gram(x, labels, k, self._each)

    def lloyd(self, x: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Measure distances in the input's dtype, and add up in float64, in one pass for each start."""
        return clusters.lloyd(x, centroids, self._each)

    def prune(self, w: np.ndarray, h: np.ndarray, spec: PruneSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prune expert by expert, each on all threads."""
        with self._one_blas_thread():
            return methods.prune(w, h, spec, self._each)

    def resolve(self, w: np.ndarray, h: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Factorise for each row, rows in parallel."""
        with self._one_blas_thread():
            experts = zip(w, h, mask.astype(bool), strict=True)
            return np.array([least_squares.resolve(*expert, self._each) for expert in experts], w.dtype)

    def _one_blas_thread(self) -> AbstractContextManager:
        """Leave the threads to the tiles."""
        return self._blas.limit(limits=1, user_api="blas")

    def _each(self, work: Callable[[Any], object], items: Iterable[Any]) -> None:
        """Do `work(item)` for every item, on all threads."""
        list(self._pool.map(work, items))

    def _blocks(self, m: int, work: Callable[[int, int], None]) -> None:
        """Do `work(first, last)` for every block of neurons, on all threads."""
        starts = range(0, m, WIDTH)
        self._each(lambda first: work(first, min(m, first + WIDTH)), starts)
