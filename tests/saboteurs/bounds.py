"""Wrong bounds."""

import numpy as np

from saboteurs.base import Saboteur
from wncore.moments import moments_of
from wncore.normal import cdf_integral
from wncore.streaming import distance_bounds


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
