"""What scoring adds up while it reads outputs: histograms of all tokens, of the jackknife's groups, of first tokens."""

from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.errors import InputError
from wncore.histograms import Histogram, coarsen
from wncore.moments import moments_of
from wncore.normal import Float
from wncore.uncertainty import jackknife_error

COARSE = 128
"""Bins of the histograms that the jackknife subtracts."""
STATE = 24 * COARSE * 25
"""Bytes of the histograms of 20 groups and their sums, for one neuron."""


class Accumulator:
    """Additive state of some neurons: fine bins for the certified bounds, `COARSE` bins for everything else."""

    def __init__(self, backend: Backend, edges: Float, groups: int) -> None:
        bins = edges.shape[1] - 1
        if bins < COARSE or bins % COARSE:
            raise InputError(f"the number of bins must be a multiple of {COARSE}; got {bins}")
        self.backend, self.edges, self.factor = backend, edges, bins // COARSE
        self.coarse_edges = np.ascontiguousarray(edges[:, :: self.factor])
        self.total: Histogram | None = None
        self.groups: list[Histogram | None] = [None] * groups
        self.first: Histogram | None = None

    def add(self, tile: NDArray, groups: NDArray, first: NDArray) -> None:
        """Count a batch (n, t) whose tokens belong to rising `groups` (n,); `first` (n,) marks first tokens."""
        bounds = [0, *(np.flatnonzero(np.diff(groups)) + 1), len(groups)]
        runs = [slice(low, high) for low, high in pairwise(bounds)]
        if self.factor == 1:
            parts = [self._count(tile[run], self.edges) for run in runs]
            whole = reduce(add, parts)
        else:
            whole = self._count(tile, self.edges)
            parts = (
                [self._coarsen(whole)]
                if len(runs) == 1
                else [self._count(tile[run], self.coarse_edges) for run in runs]
            )
        self.total = whole if self.total is None else self.total + whole
        for run, part in zip(runs, parts, strict=True):
            held = self.groups[groups[run.start]]
            self.groups[groups[run.start]] = part if held is None else held + part
        if first.any():
            part = self._count(tile[first], self.coarse_edges)
            self.first = part if self.first is None else self.first + part

    def bounds(self) -> tuple[Float, Float]:
        """Return the certified bounds of the distance, (m,) each."""
        assert self.total is not None
        return self._bounds(self.total)

    def statistics(self) -> dict[str, NDArray]:
        """Return error, moments and the first-token flag, (m,) each."""
        assert self.total is not None
        whole = self._coarsen(self.total)
        low, _ = self._bounds(whole)
        error = jackknife_error(whole, [group for group in self.groups if group is not None], self._bounds)
        shift = np.zeros_like(low)
        if self.first is not None and self.first.tokens <= whole.tokens - 2:
            shift = np.abs(self._bounds(whole - self.first)[0] - low)
        moments = moments_of(whole.edges, whole.counts.sum(axis=1), whole.powers)
        return {
            "wasserstein_error": error,
            "mean": moments.mean,
            "std": moments.std,
            "skewness": moments.skewness,
            "excess_kurtosis": moments.excess_kurtosis,
            "first_token": shift > 3 * error,
        }

    def _count(self, tile: NDArray, edges: Float) -> Histogram:
        y = self.backend.asarray(tile, tile.dtype.name)
        parts = self.backend.histogram(y, self.backend.asarray(edges, "float64"))
        return Histogram(edges, *map(self.backend.to_numpy, parts))

    def _coarsen(self, part: Histogram) -> Histogram:
        if self.factor == 1:
            return part
        counts, sums, _ = coarsen(part.counts, part.sums, part.edges, self.factor)
        return Histogram(self.coarse_edges, counts, sums, part.powers)

    def _bounds(self, part: Histogram) -> tuple[Float, Float]:
        arrays = (part.edges, part.counts, part.sums, part.powers)
        low, high = self.backend.distance_bounds(*(self.backend.asarray(array, "float64") for array in arrays))
        return self.backend.to_numpy(low), self.backend.to_numpy(high)
