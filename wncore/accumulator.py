"""What scoring adds up while it reads outputs: histograms of all tokens, of the jackknife's groups, of first tokens."""

from operator import add

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Array, Backend
from wncore.errors import InputError
from wncore.histograms import Histogram, coarsen
from wncore.layers.pieces import TreeSum
from wncore.moments import moments_of
from wncore.normal import Float
from wncore.uncertainty import jackknife_error

COARSE = 128
"""Bins of the histograms that the jackknife subtracts."""
STATE = 24 * COARSE * 25
"""Bytes of the histograms of 20 groups and their sums, for one neuron."""


class Accumulator:
    """Additive state of some neurons: fine bins for the certified bounds, `COARSE` bins for everything else.

    Batches are added up within a piece, pieces along a fixed tree (`wncore.layers.pieces`); a piece is a group of the
    jackknife. The state lies where the backend's arrays do.
    """

    def __init__(self, backend: Backend, edges: Array) -> None:
        bins = edges.shape[1] - 1
        if bins < COARSE or bins % COARSE:
            raise InputError(f"the number of bins must be a multiple of {COARSE}; got {bins}")
        self.backend, self.factor = backend, bins // COARSE
        self.edges = backend.asarray(edges, "float64")
        self.coarse_edges = self.edges
        if self.factor > 1:
            self.coarse_edges = backend.asarray(self.edges[:, :: self.factor], "float64")
        self.groups: list[Histogram] = []
        self._total, self._first = TreeSum[Histogram](add), TreeSum[Histogram](add)
        self._piece: Histogram | None = None
        self._piece_first: Histogram | None = None

    def add(self, y: Array, first: NDArray) -> None:
        """Count a batch (n, t) of a piece; `first` (n,) marks first tokens of sequences."""
        part = self._count(y, self.edges)
        self._piece = part if self._piece is None else self._piece + part
        if first.any():
            rows = self.backend.asarray(np.flatnonzero(first), "int64")
            part = self._count(y[rows], self.coarse_edges)
            self._piece_first = part if self._piece_first is None else self._piece_first + part

    def end_piece(self) -> None:
        """What is added from now on belongs to the next piece."""
        if self._piece is not None:
            self.groups.append(self._coarsen(self._piece))
            self._total.add(self._piece)
        if self._piece_first is not None:
            self._first.add(self._piece_first)
        self._piece = self._piece_first = None

    @property
    def total(self) -> Histogram:
        """The fine histogram of all tokens."""
        found = self._total.result()
        assert found is not None  # a layer that is scored has tokens
        return found

    def bounds(self) -> tuple[Float, Float]:
        """Return the certified bounds of the distance, (m,) each."""
        low, high = self._bounds(self.total)
        return self.backend.to_numpy(low), self.backend.to_numpy(high)

    def statistics(self) -> dict[str, NDArray]:
        """Return error, moments and the first-token flag, (m,) each."""
        whole, first = self._coarsen(self.total), self._first.result()
        low, _ = self._bounds(whole)
        error = jackknife_error(whole, self.groups, self._bounds)
        shift = low - low
        if first is not None and first.tokens <= whole.tokens - 2:
            shift = abs(self._bounds(whole - first)[0] - low)
        error, shift = (
            part if isinstance(part, np.ndarray) else self.backend.to_numpy(part) for part in (error, shift)
        )
        edges, counts, powers = map(self.backend.to_numpy, (whole.edges, whole.counts, whole.powers))
        moments = moments_of(edges, counts.sum(axis=1), powers)
        return {
            "wasserstein_error": error,
            "mean": moments.mean,
            "std": moments.std,
            "skewness": moments.skewness,
            "excess_kurtosis": moments.excess_kurtosis,
            "first_token": shift > 3 * error,
        }

    def _count(self, y: Array, edges: Array) -> Histogram:
        return Histogram(edges, *self.backend.histogram(y, edges))

    def _coarsen(self, part: Histogram) -> Histogram:
        if self.factor == 1:
            return part
        counts, sums, _ = coarsen(part.counts, part.sums, part.edges, self.factor)
        return Histogram(self.coarse_edges, counts, sums, part.powers)

    def _bounds(self, part: Histogram) -> tuple[Array, Array]:
        return self.backend.distance_bounds(part.edges, part.counts, part.sums, part.powers)
