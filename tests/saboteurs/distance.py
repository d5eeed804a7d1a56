"""Wrong distances."""

import numpy as np
from scipy.special import ndtri

from saboteurs.base import Saboteur
from saboteurs.right import cells, standardised
from wncore.wasserstein import gaussian_distance, sampled_distance


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
