"""No saboteurs: backends that keep float32 where the protocol allows it."""

import numpy as np
from scipy.special import ndtr, ndtri

from saboteurs.base import histogram_of_bits
from saboteurs.steps import Steps
from wncore.normal import density
from wncore.reference import NumpyBackend
from wncore.wasserstein import gaussian_distance


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


class RightInFloat32(Steps, NumpyBackend):
    """Straightforward NumPy in the dtype of its input; of sums over tokens, those over a few."""

    dtypes = ("float64", "float32")

    def gaussian_distance(self, y):
        if y.dtype == np.float64:
            return gaussian_distance(y)
        return cells(standardised(y).astype(np.float64)).sum(axis=0)  # cells are smaller than roundings

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

    def histogram(self, y, edges):
        """Keep heights in a bin as whole numbers of 51 bits, the bin being 2^51 wide, which add up exactly."""
        return histogram_of_bits(y, edges, 51)

    def linear_histogram(self, x, weights, bias, labels, edges):
        return self.histogram(self.routed_linear(x, weights, bias, labels), edges)

    def gram(self, x, labels, k):
        grams, sums = np.zeros((k, x.shape[1], x.shape[1])), np.zeros((k, x.shape[1]))
        for first in range(0, len(x), 512):
            for c in range(k):
                part = x[first : first + 512][labels[first : first + 512] == c]
                grams[c] += part.T @ part
                sums[c] += part.sum(axis=0)
        return grams, sums, np.bincount(labels, minlength=k)

    def lloyd(self, x, centroids):
        return tuple(map(np.array, zip(*(self.step(x, start) for start in centroids), strict=True)))

    def step(self, x, centroids):
        squares = np.array([np.square(x - centroid).sum(axis=1) for centroid in centroids])
        labels = squares.argmin(axis=0)
        sums, inertia = np.zeros(centroids.shape), np.zeros(len(centroids))
        for first in range(0, len(x), 512):
            for c in range(len(centroids)):
                mine = np.flatnonzero(labels[first : first + 512] == c) + first
                sums[c] += x[mine].sum(axis=0)
                inertia[c] += squares[c, mine].sum()
        return labels, sums, np.bincount(labels, minlength=len(centroids)), inertia


def wide(x):
    """Half precision as float32, all else as it is."""
    return x.astype(np.float32) if x is not None and x.dtype.itemsize == 2 else x


class RightInHalf(RightInFloat32):
    """The same on inputs of half precision: answers that keep their dtype are rounded once."""

    dtypes = ("float16", "bfloat16")

    def gaussian_distance(self, y):
        return super().gaussian_distance(wide(y))

    def histogram(self, y, edges):
        return super().histogram(wide(y), edges)

    def mapping_difficulty(self, x, y, left, right):
        return super().mapping_difficulty(wide(x), wide(y), left, right)

    def routed_linear(self, x, weights, bias, labels):
        return super().routed_linear(wide(x), wide(weights), wide(bias), labels).astype(x.dtype)

    def linear_histogram(self, x, weights, bias, labels, edges):
        return super().linear_histogram(wide(x), wide(weights), wide(bias), labels, edges)

    def gram(self, x, labels, k):
        return super().gram(wide(x), labels, k)

    def lloyd(self, x, centroids):
        return super().lloyd(wide(x), wide(centroids))

    def prune(self, w, h, spec):
        weights, ridge, raised = super().prune(wide(w), h, spec)
        return weights.astype(w.dtype), ridge, raised

    def resolve(self, w, h, mask):
        return super().resolve(wide(w), h, mask).astype(w.dtype)
