"""No saboteur: a backend that keeps float32 where the protocol allows it."""

import numpy as np
from scipy.special import ndtr, ndtri

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

    def gram(self, x, labels, k):
        grams, sums = np.zeros((k, x.shape[1], x.shape[1])), np.zeros((k, x.shape[1]))
        for first in range(0, len(x), 512):
            for c in range(k):
                part = x[first : first + 512][labels[first : first + 512] == c]
                grams[c] += part.T @ part
                sums[c] += part.sum(axis=0)
        return grams, sums, np.bincount(labels, minlength=k)

    def lloyd(self, x, centroids):
        squares = np.array([np.square(x - centroid).sum(axis=1) for centroid in centroids])
        labels = squares.argmin(axis=0)
        sums, inertia = np.zeros(centroids.shape), np.zeros(len(centroids))
        for first in range(0, len(x), 512):
            for c in range(len(centroids)):
                mine = np.flatnonzero(labels[first : first + 512] == c) + first
                sums[c] += x[mine].sum(axis=0)
                inertia[c] += squares[c, mine].sum()
        return labels, sums, np.bincount(labels, minlength=len(centroids)), inertia
