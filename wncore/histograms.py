r"""Additive histograms of neurons' outputs: the state behind the streaming distance, the moments and the jackknife.

A `Histogram` adds up over batches, shards and machines, f(a ++ b) = f(a) + f(b), and subtracts as well. Per neuron it
keeps, over b bins with fixed edges, how many outputs fell into each bin and the sum of their heights above its left
edge, so that the integral of the empirical distribution function over a bin is known exactly; and four power sums.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from wncore.backend import Array
from wncore.errors import ShapeError
from wncore.normal import Float
from wncore.routing import routed_linear
from wncore.wasserstein import as_outputs

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """Counts and sums of m neurons' outputs over b bins, the two open tails included.

    Bin j, 1 <= j <= b, holds edges[j-1] < y <= edges[j]; bin 0 all y <= edges[0], bin b + 1 all y > edges[b]. `sums`
    adds y - edges[j-1] (in the lower tail y - edges[0], negative). `powers` adds t, t^2, t^3, t^4 of
    t = (y - centre) / unit, where centre is the middle edge and unit the distance from the first edge to the last. The
    arrays are NumPy's, or those of one backend.
    """

    edges: Array
    """(m, b + 1), not falling, the first below the last."""
    counts: Array
    """(m, b + 2)"""
    sums: Array
    """(m, b + 2), in the outputs' unit."""
    powers: Array
    """(m, 4), without unit."""

    @property
    def tokens(self) -> int:
        """How many outputs of each neuron were counted."""
        return int(self.counts[0].sum()) if len(self.counts) else 0

    def __add__(self, other: Self) -> "Histogram":
        """Count the tokens of both."""
        self._check(other)
        return Histogram(self.edges, self.counts + other.counts, self.sums + other.sums, self.powers + other.powers)

    def __sub__(self, other: Self) -> "Histogram":
        """Leave out tokens that were counted before."""
        self._check(other)
        return Histogram(self.edges, self.counts - other.counts, self.sums - other.sums, self.powers - other.powers)

    def _check(self, other: Self) -> None:
        if self.edges is not other.edges and not np.array_equal(self.edges, other.edges):
            raise ShapeError("histograms add up only over the same edges; give every batch the edges of the first")


def histogram(y: ArrayLike, edges: ArrayLike) -> tuple[Counts, Float, Float]:
    """Count one batch: (n, m), (m, b + 1) -> counts (m, b + 2), sums (m, b + 2), powers (m, 4), as in `Histogram`.

    >>> counts, sums, powers = histogram([[0.5], [2.0], [9.0]], [[0.0, 1.0, 2.0]])
    >>> counts, sums
    (array([[0, 1, 1, 1]]), array([[0. , 0.5, 1. , 7. ]]))
    """
    columns, all_edges = as_outputs(y).T, np.asarray(edges, np.float64)
    m, bins = len(all_edges), all_edges.shape[1] - 1
    counts, sums = np.zeros((m, bins + 2), np.int64), np.zeros((m, bins + 2))
    for neuron, (column, edge) in enumerate(zip(columns, all_edges, strict=True)):
        place = np.searchsorted(edge, column, side="left")
        left = edge[np.maximum(place - 1, 0)]
        counts[neuron] = np.bincount(place, minlength=bins + 2)
        sums[neuron] = np.bincount(place, weights=column - left, minlength=bins + 2)
    centre, unit = centre_and_unit(all_edges)
    t = (columns - centre[:, None]) / unit[:, None]
    powers = np.stack([t.sum(1), (t**2).sum(1), (t**3).sum(1), (t**4).sum(1)], axis=1)
    return counts, sums, powers


def histogram_runs(
    y: ArrayLike, edges: ArrayLike, starts: ArrayLike, factor: int
) -> tuple[Counts, Float, Float, Counts, Float, Float]:
    """Count one batch at once and run by run: `histogram` of all tokens, and of p runs of them over coarser bins.

    (n, m), (m, b + 1), (p + 1,) -> counts, sums (m, b + 2) and powers (m, 4) of all; counts and sums
    (p, m, b / factor + 2) and powers (p, m, 4) of the runs, `factor` bins joined to one. Run i holds the tokens from
    starts[i] to starts[i + 1], which rise from 0 to n; none is empty.

    >>> y, edges = [[0.5], [2.0], [9.0]], [[0.0, 1.0, 2.0]]
    >>> counts, _, _, parts, _, _ = histogram_runs(y, edges, [0, 2, 3], factor=2)
    >>> counts.tolist(), parts.tolist()
    ([[0, 1, 1, 1]], [[[0, 2, 0]], [[0, 0, 1]]])
    """
    outputs, fine = as_outputs(y), np.asarray(edges, np.float64)
    found = [histogram(outputs[a:b], fine[:, ::factor]) for a, b in pairwise(np.asarray(starts))]
    counts, sums, powers = (np.stack(parts) for parts in zip(*found, strict=True))
    return *histogram(outputs, fine), counts, sums, powers


def linear_histogram(
    x: ArrayLike, weights: ArrayLike, bias: ArrayLike | None, labels: ArrayLike, edges: ArrayLike
) -> tuple[Counts, Float, Float]:
    """Count the outputs of a linear layer, y_t = W[label_t] x_t + b, which nobody stores: `histogram` of them.

    (n, d), (k, m, d), (m,) or None, (n,), (m, b + 1) -> counts (m, b + 2), sums (m, b + 2), powers (m, 4). The outputs
    are float64, whatever dtype x has: none is rounded on its way into a bin. Additive over tokens.

    >>> counts, sums, powers = linear_histogram([[1.0], [4.0]], [[[0.5]]], None, [0, 0], [[0.0, 1.0]])
    >>> counts, sums
    (array([[0, 1, 1]]), array([[0. , 0.5, 1. ]]))

    Raises
    ------
    ShapeError
        If x has no token.
    """
    return histogram(routed_linear(x, weights, bias, labels), edges)


def centre_and_unit(edges: Float) -> tuple[Float, Float]:
    """Return the origin and the unit of the power sums: the middle edge, and the last edge minus the first."""
    return edges[:, edges.shape[1] // 2], edges[:, -1] - edges[:, 0]


def coarsen(counts: Array, sums: Array, edges: Array, factor: int) -> tuple[Array, Array, Array]:
    """Join each run of `factor` bins into one, exactly: counts, sums and edges of a histogram over b / factor bins.

    The arrays may be a backend's own; counts and sums may be those of several runs of tokens, (p, m, b + 2).
    """
    m, bins = edges.shape[0], edges.shape[1] - 1
    inner = (m, bins // factor, factor)
    left = edges[:, :-1].reshape(inner)
    many, heights = (part[..., 1:-1].reshape(*part.shape[:-2], *inner) for part in (counts, sums))
    lifted = heights + many * (left - left[:, :, :1])
    return _with_tails(counts, _joined(many)), _with_tails(sums, _joined(lifted)), edges[:, ::factor]


def _joined(bins: Array) -> Array:
    """Add up runs of bins, (..., k, factor) -> (..., k), by halves: quicker than `sum` of so few, in the same order."""
    while bins.shape[-1] % 2 == 0:
        bins = bins[..., ::2] + bins[..., 1::2]
    return bins.sum(-1)


def _with_tails(fine: Array, inner: Array) -> Array:
    """Put the two tails of a histogram around its joined bins."""
    out = fine[..., : inner.shape[-1] + 2] * 0
    out[..., 0], out[..., 1:-1], out[..., -1] = fine[..., 0], inner, fine[..., -1]
    return out


def choose_edges(y: ArrayLike, bins: int) -> Float:
    """Place the edges of every neuron's bins by a first batch of its outputs: (n, m) -> (m, bins + 1).

    What the certified distance leaves open adds up to about sum_j (mass of bin j) x (width of bin j) / 4. For a density
    f and b bins that sum is smallest when bins are as dense as sqrt(f); for a Gaussian, sqrt(f) is the shape of a
    Gaussian of twice the variance, and the sum is (integral of sqrt(phi))^2 / b = 5.01 / b. So the edges are quantiles
    of a mixture of three Gaussians of that kind: one with the batch's mean and deviation; one with its median and
    interquartile range, which resolves the body when a few outliers rule the deviation; and a thin one, eight times
    wider, for outliers to come. Any edges give valid bounds; these make them narrow.
    """
    first = as_outputs(y)
    grid, mixture = mixture_of(*location_and_scale(first))
    levels = np.linspace(mixture[:, 0], mixture[:, -1], bins + 1, axis=1)
    edges = np.stack([np.interp(*row) for row in zip(levels, mixture, grid, strict=True)])
    constant = np.ptp(first, axis=0) == 0
    edges[constant, edges.shape[1] // 2] = first[0, constant]  # the centre, so that its power sums vanish exactly
    return edges


def mixture_of(mean: Float, spread: Float, median: Float, body: Float) -> tuple[Float, Float]:
    """Return the distribution function of the mixture of `choose_edges` on a grid: (m,) each -> (m, g), (m, g)."""
    parts = ((0.47, mean, spread), (0.47, median, body), (0.06, mean, 8 * spread))
    nodes = ndtri(np.linspace(0, 1, 43)[1:-1])
    grid = np.sort(np.hstack([at[:, None] + np.sqrt(2) * width[:, None] * nodes for _, at, width in parts]), axis=1)
    mixture = np.zeros_like(grid)
    for weight, at, width in parts:
        mixture += weight * ndtr((grid - at[:, None]) / (np.sqrt(2) * width[:, None]))
    return grid, mixture


def location_and_scale(first: Float) -> tuple[Float, Float, Float, Float]:
    """Mean, deviation, median and deviation of the body (by the interquartile range), (m,) each, none of them zero."""
    if first.shape[1] == 1:  # NumPy adds up a single column in another order
        mean, spread, median, body = (value[:1] for value in location_and_scale(np.repeat(first, 2, axis=1)))
        return mean, spread, median, body
    quarter, median, three_quarters = np.quantile(np.ascontiguousarray(first[:1024].T), [0.25, 0.5, 0.75], axis=1)
    mean, spread = first.mean(axis=0), first.std(axis=0)
    guess = np.where(mean != 0, np.abs(mean) * 2.0**-10, 1.0)  # a constant batch says nothing of the scale
    spread = np.where(spread > 2.0**-40 * np.abs(mean), spread, guess)
    body = (three_quarters - quarter) / 1.349  # the interquartile range of N(0, 1)
    return mean, spread, median, np.where(body > 2.0**-20 * spread, body, spread)
