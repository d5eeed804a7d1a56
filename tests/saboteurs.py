"""Backends that are wrong in one way each, as one might be by mistake: the conformance suite must reject every one.

One backend is right, in plain float32 without any trick: the suite must let it pass.
"""

import numpy as np
from scipy.special import ndtr, ndtri

from wncore.difficulty import mapping_difficulty
from wncore.histogram import centre_and_unit, histogram
from wncore.moments import moments_of
from wncore.normal import cdf_integral, density
from wncore.reference import NumpyBackend
from wncore.routing import routed_linear
from wncore.streaming import distance_bounds
from wncore.wasserstein import gaussian_distance, sampled_distance


def standardised(y, ddof=0):
    """Sort and standardise, a constant neuron to zeros."""
    y = np.sort(y, axis=0)
    live = y[0] < y[-1]
    std = y.std(axis=0, ddof=min(ddof, len(y) - 1))
    return np.where(live, (y - y.mean(axis=0)) / np.where(live, std, 1), 0)


def cells(z):
    """Integrals of |z_i - t| phi(t) over the cells of the Gaussian, zeros for a constant neuron."""
    n = len(z)
    edges = ndtri(np.arange(n + 1) / n).astype(z.dtype)[:, None]
    low, high = edges[:-1], edges[1:]
    share = (np.arange(n + 1) / n).astype(z.dtype)[:, None]
    phi_low, phi_high = density(low), density(high)
    crossed = z * (2 * ndtr(z) - share[:-1] - share[1:]) + 2 * density(z) - phi_low - phi_high
    outside = np.abs(z / n - (phi_low - phi_high))
    return np.where(z[0] == z[-1], 0, np.where((low < z) & (z < high), crossed, outside))


class RightInFloat32(NumpyBackend):
    """No saboteur: it keeps float32 where the protocol allows it."""

    def gaussian_distance(self, y):
        if y.dtype == np.float64:
            return gaussian_distance(y)
        return cells(standardised(y)).sum(axis=0).astype(np.float64)

    def mapping_difficulty(self, x, y, left, right):
        if len(left) < 2:
            return np.zeros(y.shape[1])
        dx, dy = np.linalg.norm(x[left] - x[right], axis=1), np.abs(y[left] - y[right])
        median = np.median(dy, axis=0)
        ratio = dy / np.where(median > 0, median, 1) / (dx / dx.max())[:, None]
        return np.where(median > 0, ratio.mean(axis=0), 0).astype(np.float64)

    def routed_linear(self, x, weights, bias, labels):
        out = np.zeros((len(x), weights.shape[1]), x.dtype)
        for expert, weight in enumerate(weights):
            out[labels == expert] = x[labels == expert] @ weight.T
        return out if bias is None else out + bias


class Saboteur(NumpyBackend):
    """Base of all that follow."""


# ---- gaussian_distance


class SampleDeviation(Saboteur):
    """ddof=1, the habit of torch and pandas."""

    def gaussian_distance(self, y):
        return cells(standardised(y.astype(np.float64), ddof=1)).sum(axis=0)


class MidpointQuantiles(Saboteur):
    """mean |z_i - q_i| at midpoints in place of the integral."""

    def gaussian_distance(self, y):
        z = standardised(y.astype(np.float64))
        quantiles = ndtri((np.arange(len(z)) + 0.5) / len(z))[:, None]
        return np.where(z[0] == z[-1], 0, np.abs(z - quantiles).mean(axis=0))


class SampledGaussian(Saboteur):
    """The published code's comparison with a Gaussian sample."""

    def gaussian_distance(self, y):
        return sampled_distance(y)


class DeadNeuronIsNaN(Saboteur):
    """Divides 0 by 0 where a neuron is constant."""

    def gaussian_distance(self, y):
        return np.where(y.min(axis=0) == y.max(axis=0), np.nan, gaussian_distance(y))


class OnePassVariance(Saboteur):
    """E y^2 - (E y)^2, which loses the offset's digits twice."""

    def gaussian_distance(self, y):
        y = np.sort(y.astype(np.float64), axis=0)
        with np.errstate(all="ignore"):
            std = np.sqrt(np.maximum(np.square(y).mean(axis=0) - y.mean(axis=0) ** 2, 0))
            z = np.where((std > 0) & (y[0] < y[-1]), (y - y.mean(axis=0)) / std, 0)
        return cells(z).sum(axis=0)


class SquaresOverflow(Saboteur):
    """Squares outputs in their own unit: 1e200 becomes infinite, 1e-200 zero."""

    def gaussian_distance(self, y):
        with np.errstate(all="ignore"):
            return np.nan_to_num(cells(standardised(y.astype(np.float64))).sum(axis=0))


class LastCellForgotten(Saboteur):
    """The Gaussian's upper tail is left out."""

    def gaussian_distance(self, y):
        return cells(standardised(y.astype(np.float64)))[:-1].sum(axis=0)


class HalfPrecision(Saboteur):
    """Sorts bfloat16-like halves to save memory."""

    def gaussian_distance(self, y):
        with np.errstate(all="ignore"):
            z = standardised(y.astype(np.float64)).astype(np.float16)
        return gaussian_distance(np.where(np.isfinite(z), z, 0).astype(np.float64))


class TokensOfFullBlocksOnly(Saboteur):
    """The last, partial block of 32 tokens is dropped."""

    def gaussian_distance(self, y):
        return gaussian_distance(y[: max(len(y) // 32 * 32, min(len(y), 31))])


class NeuronsOfFullWarpsOnly(Saboteur):
    """Neurons after the last full 32 keep the zeros that they were made with."""

    def gaussian_distance(self, y):
        out = gaussian_distance(y)
        full = y.shape[1] // 32 * 32
        if full:
            out[full:] = 0
        return out


class WritesIntoItsArgument(Saboteur):
    """Centres in place."""

    def gaussian_distance(self, y):
        out = gaussian_distance(y)
        y -= y.mean(axis=0)
        return out


class ExtraAxis(Saboteur):
    """keepdims=True."""

    def gaussian_distance(self, y):
        return gaussian_distance(y)[None]


class Narrows(Saboteur):
    """Answers in the dtype of y, where the protocol says float64."""

    def gaussian_distance(self, y):
        return gaussian_distance(y).astype(y.dtype)


class Dice(Saboteur):
    """Within the budget, but not the same twice: atomic additions."""

    def gaussian_distance(self, y):
        out = gaussian_distance(y)
        return out * (1 + 2.0**-52 * np.random.default_rng().integers(0, 2, out.shape))


# ---- histogram


def counted_at(y, edges, place):
    """Count with the given bins of every output (m, n), or those of the definition."""
    counts, sums = np.zeros((len(edges), edges.shape[1] + 1), np.int64), np.zeros((len(edges), edges.shape[1] + 1))
    for k, edge in enumerate(edges):
        bins = place(edge, y[:, k])
        np.add.at(counts[k], bins, 1)
        np.add.at(sums[k], bins, y[:, k].astype(np.float64) - edge[np.maximum(bins - 1, 0)])
    return counts, sums, histogram(y, edges)[2]


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
        return counts, sums + counts * edges[:, np.maximum(np.arange(edges.shape[1] + 1) - 1, 0)], powers


class SumsBySubtraction(Saboteur):
    """Sum of y, minus the count times the left edge: right but for the digits that cancel."""

    def histogram(self, y, edges):
        counts, sums, powers = SumsFromZero().histogram(y, edges)
        return counts, sums - counts * edges[:, np.maximum(np.arange(edges.shape[1] + 1) - 1, 0)], powers


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


# ---- distance_bounds


class BoundsSwapped(Saboteur):
    """high, low."""

    def distance_bounds(self, edges, counts, sums, powers):
        return distance_bounds(edges, counts, sums, powers)[::-1]


class NoCrossing(Saboteur):
    """Takes the two curves for never crossing: high = low."""

    def distance_bounds(self, edges, counts, sums, powers):
        low, _ = distance_bounds(edges, counts, sums, powers)
        return low, low.copy()


class HalfTheCrossing(Saboteur):
    """Allows for the area above the curve, not for that below."""

    def distance_bounds(self, edges, counts, sums, powers):
        low, high = distance_bounds(edges, counts, sums, powers)
        return low, (low + high) / 2


class MiddleEdgeIsTheMean(Saboteur):
    """Standardises by the first batch: takes the centre of the power sums for the mean."""

    def distance_bounds(self, edges, counts, sums, powers):
        return distance_bounds(edges, counts, sums, powers * [0, 1, 1, 1])


class UpperTailForgotten(Saboteur):
    """Leaves out what lies above the last edge."""

    def distance_bounds(self, edges, counts, sums, powers):
        low, high = distance_bounds(edges, counts, sums, powers)
        n = counts.sum(axis=1)
        moments = moments_of(edges, n, powers)
        std = np.where(moments.std > 0, moments.std, np.inf)
        above, gauss = sums[:, -1] / (n * std), cdf_integral((moments.mean - edges[:, -1]) / std)
        return np.maximum(low - np.abs(above - gauss), 0), np.maximum(high - above - gauss, 0)


class NotRoundedOutwards(Saboteur):
    """Forgets that sums round: no certificate."""

    def distance_bounds(self, edges, counts, sums, powers):
        low, high = distance_bounds(edges, counts, sums, powers)
        slack = 8 * np.finfo(float).eps * (counts.sum(axis=1) + edges.shape[1])
        return np.where(low > 0, low + slack, low), np.where(high > 0, np.maximum(high - slack, 0), 0)


class BoundsInFloat32(Saboteur):
    """Narrows the histogram to save memory."""

    def distance_bounds(self, edges, counts, sums, powers):
        narrow = (array.astype(np.float32).astype(np.float64) for array in (sums, powers))
        return distance_bounds(edges, counts, *narrow)


# ---- mapping_difficulty


class LowerMedian(Saboteur):
    """The lower of two middles, torch.median's habit."""

    def mapping_difficulty(self, x, y, left, right):
        out = mapping_difficulty(x, y, left, right)
        if len(left) > 1:
            dy = np.sort(np.abs(y[left].astype(np.float64) - y[right]), axis=0)
            lower = dy[(len(dy) - 1) // 2]
            out = np.where(lower > 0, out * np.median(dy, axis=0) / np.where(lower > 0, lower, 1), 0)
        return out


class MedianOfTheLayer(Saboteur):
    """One median for all neurons."""

    def mapping_difficulty(self, x, y, left, right):
        out = mapping_difficulty(x, y, left, right)
        if len(left) < 2:
            return out
        dy = np.abs(y[left].astype(np.float64) - y[right])
        whole = np.median(dy)
        return out * np.median(dy, axis=0) / whole if whole > 0 else out


class ZeroMedianIsNaN(Saboteur):
    """Divides by a median of 0."""

    def mapping_difficulty(self, x, y, left, right):
        out = mapping_difficulty(x, y, left, right)
        return np.where(out == 0, np.nan, out)


class ExpandedSquares(Saboteur):
    """|a|^2 - 2 ab + |b|^2, the GPU's shortcut, which cancels where inputs are close."""

    def mapping_difficulty(self, x, y, left, right):
        if len(left) < 2:
            return np.zeros(y.shape[1])
        a, b = x[left], x[right]
        dx = np.sqrt(np.maximum((a * a).sum(1) - 2 * (a * b).sum(1) + (b * b).sum(1), np.finfo(x.dtype).tiny))
        line = np.concatenate([0 * dx, dx])[:, None]
        pairs = np.arange(len(left))
        return mapping_difficulty(line, y[np.concatenate([left, right])], pairs, pairs + len(left))


class SilentForFewPairs(Saboteur):
    """Answers 0 where its kernel needs more pairs, instead of NotImplementedError."""

    def mapping_difficulty(self, x, y, left, right):
        out = mapping_difficulty(x, y, left, right)
        return out if len(left) >= 4 else 0 * out


# ---- routed_linear


class AlwaysExpertZero(Saboteur):
    """Ignores the labels."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, bias, 0 * labels).astype(x.dtype)


class EmptyExpertsAreSkipped(Saboteur):
    """Numbers the experts by the labels that occur."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, bias, np.unique(labels, return_inverse=True)[1]).astype(x.dtype)


class SortedByExpert(Saboteur):
    """Groups the tokens by expert and forgets to put them back."""

    def routed_linear(self, x, weights, bias, labels):
        order = np.argsort(labels, kind="stable")
        return routed_linear(x[order], weights, bias, labels[order]).astype(x.dtype)


class BiasForgotten(Saboteur):
    """W x."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, None, labels).astype(x.dtype)


class BiasTwice(Saboteur):
    """W x + 2 b."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, None if bias is None else 2 * bias, labels).astype(x.dtype)


class TensorFloat32(Saboteur):
    """Rounds the factors of float32 products to 11 bits, as a GPU does with TF32 switched on."""

    def routed_linear(self, x, weights, bias, labels):
        def cut(a):
            bits = np.ascontiguousarray(a).view(np.uint32)
            return ((bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFFE000).view(np.float32)

        factors = (cut(x), cut(weights)) if x.dtype == np.float32 else (x, weights)
        return routed_linear(*factors, bias, labels).astype(x.dtype)


class HalfAccumulation(Saboteur):
    """Adds float32 products up in float16."""

    def routed_linear(self, x, weights, bias, labels):
        out = routed_linear(x, weights, bias, labels)
        size = np.abs(out).max(initial=1e-30)
        return (out / size).astype(np.float16 if x.dtype == np.float32 else x.dtype).astype(x.dtype) * x.dtype.type(size)


class Widens(Saboteur):
    """Answers float32 with float64."""

    def routed_linear(self, x, weights, bias, labels):
        return routed_linear(x, weights, bias, labels)


class RenamedParameter(Saboteur):
    """Calls the weights experts."""

    def routed_linear(self, x, experts, bias, labels):
        return routed_linear(x, experts, bias, labels).astype(x.dtype)


# ---- conversions


class IgnoresStrides(Saboteur):
    """Takes the buffer for rows."""

    def asarray(self, x, dtype):
        array = np.asarray(x)
        return super().asarray(np.frombuffer(array.tobytes("A"), array.dtype).reshape(array.shape), dtype)


class KeepsIntegers(Saboteur):
    """int32 labels stay int32."""

    def asarray(self, x, dtype):
        array = np.asarray(x)
        return array if array.dtype.kind in "iub" else super().asarray(x, dtype)


class RoundsOnTheWay(Saboteur):
    """Everything passes through float32."""

    def asarray(self, x, dtype):
        array = super().asarray(x, dtype)
        return array.astype(np.float32).astype(array.dtype) if array.dtype.kind == "f" else array


class RefusesEverything(Saboteur):
    """Declares all of it unsupported: there is nothing to certify."""

    def _refuse(self, *args):
        raise NotImplementedError("not yet")

    def gaussian_distance(self, y):
        self._refuse()

    def histogram(self, y, edges):
        self._refuse()

    def distance_bounds(self, edges, counts, sums, powers):
        self._refuse()

    def mapping_difficulty(self, x, y, left, right):
        self._refuse()

    def routed_linear(self, x, weights, bias, labels):
        self._refuse()


ALL = Saboteur.__subclasses__()
