"""What scoring adds up while it reads outputs: histograms of all tokens, of the jackknife's groups, of first tokens."""

from collections.abc import Sequence
from operator import add

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.backend import Array, Backend
from wncore.errors import InputError
from wncore.histograms import Histogram, coarsen
from wncore.layers.pieces import TreeSum
from wncore.moments import moments_of
from wncore.normal import Float
from wncore.uncertainty import enough_groups, spread_without

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
        self.tokens = self.first_tokens = 0
        self._groups: list[Histogram] = []  # stacks of groups, (p, m, b + 2)
        self._total, self._first = TreeSum[Histogram](add), TreeSum[Histogram](add)
        self._piece: Histogram | None = None
        self._piece_first: Histogram | None = None

    def add(self, y: Array, first: NDArray) -> None:
        """Count a batch (n, t) of a piece; `first` (n,) marks first tokens of sequences."""
        rows = self._note(first)
        part = self._count(y, self.edges)
        self._piece = part if self._piece is None else self._piece + part
        if len(rows):
            part = self._count(y[self.backend.asarray(rows, "int64")], self.coarse_edges)
            self._piece_first = part if self._piece_first is None else self._piece_first + part

    def end_piece(self) -> None:
        """What is added from now on belongs to the next piece."""
        if self._piece is not None:
            group = self._coarsen(self._piece)
            self._groups.append(Histogram(group.edges, group.counts[None], group.sums[None], group.powers[None]))
            self._total.add(self._piece)
        if self._piece_first is not None:
            self._first.add(self._piece_first)
        self._piece = self._piece_first = None

    def add_pieces(self, y: Array, first: NDArray, starts: Sequence[int]) -> None:
        """Count all pieces (n, t) at once; they start at the tokens `starts`, the last of which is n."""
        rows = self._note(first)
        counts, sums, powers, *groups = self._count_runs(y, starts, self.edges, self.factor)
        self._total.add(Histogram(self.edges, counts, sums, powers))
        self._groups.append(Histogram(self.coarse_edges, *groups))
        if len(rows):
            begin = np.unique(np.searchsorted(rows, starts))  # no piece without a first token is in the sum
            y = y[self.backend.asarray(rows, "int64")]
            self._first.add(Histogram(self.coarse_edges, *self._count_runs(y, begin, self.coarse_edges, 1)[:3]))

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
        to_numpy, whole, first = self.backend.to_numpy, self._coarsen(self.total), self._first.result()
        found, groups = self._bounds(whole)[0], sum(len(stack.counts) for stack in self._groups)
        others = [self._without(whole, stack) for stack in self._groups if enough_groups(self.tokens, groups)]
        later = found
        if first is not None and self.first_tokens <= self.tokens - 2:
            later = self._bounds(whole - first)[0]
        without = [one for stack in others for one in stack]
        error = spread_without(without) if without else found * np.nan
        low, later, error, powers = map(to_numpy, (found, later, error, whole.powers))  # all was asked for by now
        three = to_numpy(whole.edges[:, :: COARSE // 2])  # the first edge, the middle one and the last
        moments = moments_of(three, np.full(len(low), self.tokens), powers)
        return {
            "wasserstein_error": error,
            "mean": moments.mean,
            "std": moments.std,
            "skewness": moments.skewness,
            "excess_kurtosis": moments.excess_kurtosis,
            "first_token": np.abs(later - low) > 3 * error,
        }

    def _note(self, first: NDArray) -> NDArray[np.int64]:
        """Count tokens, and say which are first ones."""
        rows = np.flatnonzero(first)
        self.tokens, self.first_tokens = self.tokens + len(first), self.first_tokens + len(rows)
        return rows

    def _count(self, y: Array, edges: Array) -> Histogram:
        return Histogram(edges, *self.backend.histogram(y, edges))

    def _count_runs(self, y: Array, starts: ArrayLike, edges: Array, factor: int) -> tuple[Array, ...]:
        return self.backend.histogram_runs(y, edges, self.backend.asarray(starts, "int64"), factor)

    def _coarsen(self, part: Histogram) -> Histogram:
        if self.factor == 1:
            return part
        counts, sums, _ = coarsen(part.counts, part.sums, part.edges, self.factor)
        return Histogram(self.coarse_edges, counts, sums, part.powers)

    def _without(self, whole: Histogram, stack: Histogram) -> Array:
        """Return the lower bounds without each group of a stack, (p, m), in one go."""
        p, m, _ = stack.counts.shape
        edges = whole.edges
        if p > 1:
            edges = (self.backend.asarray(np.zeros((p, 1, 1)), "float64") + edges).reshape(p * m, -1)
        rest = whole.counts - stack.counts, whole.sums - stack.sums, whole.powers - stack.powers
        low, _ = self.backend.distance_bounds(edges, *(part.reshape(p * m, -1) for part in rest))
        return low.reshape(p, m)

    def _bounds(self, part: Histogram) -> tuple[Array, Array]:
        return self.backend.distance_bounds(part.edges, part.counts, part.sums, part.powers)
