"""Wrong histograms."""

import numpy as np

from saboteurs.base import Saboteur, histogram_of_bits
from wncore.histograms import centre_and_unit, histogram


def counted_at(y, edges, place):
    """Count with the bins that `place` gives for the edges (b + 1,) and outputs (n,) of a neuron."""
    counts, sums, powers = histogram(y, edges)
    counts[:], sums[:] = 0, 0
    for k, edge in enumerate(edges):
        bins = place(edge, y[:, k])
        np.add.at(counts[k], bins, 1)
        np.add.at(sums[k], bins, y[:, k].astype(np.float64) - edge[np.maximum(bins - 1, 0)])
    return counts, sums, powers


def left_edges(edges):
    """Left edge of each bin, tails included."""
    return np.hstack([edges[:, :1], edges])


class ClosedOnTheLeft(Saboteur):
    """left <= y < right, as numpy.histogram has it."""

    def histogram(self, y, edges):
        return counted_at(y, edges, lambda edge, values: np.searchsorted(edge, values, side="right"))


class OuterBinsTakeTheTails(Saboteur):
    """Outputs beyond the edges are clipped into the outer bins."""

    def histogram(self, y, edges):
        last = edges.shape[1] - 1
        return counted_at(y, edges, lambda edge, values: np.clip(np.searchsorted(edge, values), 1, last))


class EdgesInTheDtype(Saboteur):
    """Edges are rounded to the outputs' float32 before they are compared."""

    def histogram(self, y, edges):
        return counted_at(y, edges, lambda edge, values: np.searchsorted(edge.astype(values.dtype), values))


class EvenBins(Saboteur):
    """Computes the bin from the first and last edge, as if all were as wide."""

    def histogram(self, y, edges):
        bins = edges.shape[1] - 1

        def place(edge, values):
            found = np.ceil((values - edge[0]) / (edge[-1] - edge[0]) * bins)
            return np.clip(found, 0, bins + 1).astype(np.int64)

        return counted_at(y, edges, place)


class SumsInFloat32(Saboteur):
    """Float32 outputs are summed in float32."""

    def histogram(self, y, edges):
        counts, sums, powers = histogram(y, edges)
        return counts, sums.astype(y.dtype).astype(np.float64), powers


class SumsFromZero(Saboteur):
    """Sums of y, not of y above the left edge."""

    def histogram(self, y, edges):
        counts, sums, powers = histogram(y, edges)
        return counts, sums + counts * left_edges(edges), powers


class SumsBySubtraction(Saboteur):
    """Sum of y, minus the count times the left edge: right but for the digits that cancel."""

    def histogram(self, y, edges):
        counts, sums, powers = SumsFromZero().histogram(y, edges)
        return counts, sums - counts * left_edges(edges), powers


class HeightsOf40Bits(Saboteur):
    """Rounds each height to 40 bits of its bin's width, so that 64 bits hold the sum of sixteen million."""

    def histogram(self, y, edges):
        return histogram_of_bits(y, edges, 40)


class FourthPowerMissing(Saboteur):
    """Only three power sums are filled in."""

    def histogram(self, y, edges):
        counts, sums, powers = histogram(y, edges)
        return counts, sums, powers * [1, 1, 1, 0]


class PowersAboutTheFirstEdge(Saboteur):
    """t = (y - first edge) / unit."""

    def histogram(self, y, edges):
        t = ((y - edges[:, 0]) / (edges[:, -1] - edges[:, 0])).T
        counts, sums, _ = histogram(y, edges)
        return counts, sums, np.stack([(t**k).sum(axis=1) for k in range(1, 5)], axis=1)


class PowersInFloat32(Saboteur):
    """t is rounded to the outputs' dtype."""

    def histogram(self, y, edges):
        centre, unit = centre_and_unit(edges)
        t = ((y - centre) / unit).T.astype(y.dtype).astype(np.float64)
        counts, sums, _ = histogram(y, edges)
        return counts, sums, np.stack([(t**k).sum(axis=1) for k in range(1, 5)], axis=1)


class CountsInt32(Saboteur):
    """Counts that overflow after two thousand million tokens."""

    def histogram(self, y, edges):
        counts, sums, powers = histogram(y, edges)
        return counts.astype(np.int32), sums, powers


class RemembersItsEdges(Saboteur):
    """Caches the edges of the first batch by their shape, and counts the next layer with them."""

    def __init__(self):
        self._seen = {}

    def histogram(self, y, edges):
        return histogram(y, self._seen.setdefault(edges.shape, edges.copy()))
