r"""The Wasserstein distance of a neuron: how far its output distribution is from a Gaussian.

A neuron's outputs y over n tokens are standardised, z = (y - mean y) / std y (population deviation, ddof 0), and

    WD = W1(z, N(0, 1)) = integral over u in (0, 1) of |F_z^-1(u) - Phi^-1(u)|.

It lies in [0, sqrt(2)] and does not change under y -> a y + c, a != 0. Source: Sawmya, Kong, Markov, Alistarh, Shavit,
"Wasserstein Distances, Neuronal Entanglement, and Sparsity", ICLR 2025, arXiv:2405.15756.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from wncore.errors import ShapeError
from wncore.normal import Float, density, quantile_cells


def as_outputs(y: ArrayLike) -> Float:
    """Return the outputs (n, m) as float64, or raise `ShapeError`."""
    array = np.asarray(y)
    if array.ndim != 2 or array.shape[0] < 1:
        raise ShapeError(f"outputs must be (tokens, neurons) with at least one token; got shape {array.shape}")
    return array.astype(np.float64)


def sorted_standardised(y: ArrayLike) -> Float:
    """Bring each neuron's outputs to mean 0 and population deviation 1, and sort them: (n, m) -> (m, n).

    A constant neuron becomes zeros. No digits are lost to the neuron's unit or offset: it is divided by a power of
    two, so that squares neither overflow nor underflow, and its middle value is subtracted first.
    """
    z = np.sort(np.ascontiguousarray(as_outputs(y).T), axis=1)
    exponent = np.frexp(np.abs(z).max(axis=1, keepdims=True))[1]
    z = np.ldexp(z, -exponent)
    z = z - z[:, z.shape[1] // 2, None]
    z = z - z.mean(axis=1, keepdims=True)
    constant = z[:, :1] == z[:, -1:]
    deviation = np.sqrt(np.mean(z**2, axis=1, keepdims=True))
    return np.where(constant, 0.0, z / np.where(constant, 1.0, deviation))


def gaussian_distance(y: ArrayLike) -> Float:
    r"""Exact W1 between each standardised neuron and N(0, 1): (n, m) -> (m,), in standard deviations.

    With z sorted and the Gaussian cut into n cells (e_{i-1}, e_i] of equal probability, cell i contributes the integral
    of |z_i - t| phi(t) over the cell. The integrand changes sign at t_i = clip(z_i, e_{i-1}, e_i), and an
    antiderivative of (z - t) phi(t) is B(z, t) = z Phi(t) + phi(t), so that

        WD = sum_i [2 B(z_i, t_i) - B(z_i, e_{i-1}) - B(z_i, e_i)].

    One sort, then O(n). A constant neuron gives 0. Source: arXiv:2405.15756, evaluated in closed form.

    >>> gaussian_distance(np.array([[-1.0], [1.0]]))  # 4 phi(1) + 4 Phi(1) - 2 phi(0) - 3
    array([0.53537732])

    Raises
    ------
    ShapeError
        If y is not two-dimensional or has no token.
    """
    z = sorted_standardised(y)
    n = z.shape[1]
    edges, means = quantile_cells(n)
    low, high = edges[:-1], edges[1:]
    share = np.arange(n + 1) / n  # Phi at the edges
    crossed = z * (2 * ndtr(z) - share[:-1] - share[1:]) + 2 * density(z) - density(low) - density(high)
    cells = np.where((low < z) & (z < high), crossed, np.abs(z / n - means))  # outside of its cell z loses no digits
    return np.where(z[:, 0] == z[:, -1], 0.0, cells.sum(axis=1))


def sampled_distance(y: ArrayLike, seed: int = 0) -> Float:
    """Estimate the distance as the authors do, against a Gaussian sample of the same length: (n, m) -> (m,).

    ``scipy.stats.wasserstein_distance(z, rng.standard_normal(n))``. All neurons meet the same sample, so that the
    sample's noise does not add to their differences. The noise on a Gaussian neuron, about 1.4 / sqrt(n), is what the
    exact form removes. A constant neuron gives 0. Source: the public code of arXiv:2405.15756.
    """
    z = sorted_standardised(y)
    sample = np.sort(np.random.default_rng(seed).standard_normal(z.shape[1]))
    return np.where(z[:, 0] == z[:, -1], 0.0, np.abs(z - sample).mean(axis=1))


def two_sample_distance(a: ArrayLike, b: ArrayLike) -> Float:
    """W1 between two samples of equal length, neuron by neuron: (n, m), (n, m) -> (m,), in the units of the samples.

    mean_i |a_(i) - b_(i)| over the sorted values; of a neuron's dense and sparse outputs on the same tokens, say.

    >>> two_sample_distance([[0.0], [1.0]], [[3.0], [1.0]])
    array([1.5])

    Raises
    ------
    ShapeError
        If the shapes differ or are not two-dimensional.
    """
    first, second = as_outputs(a), as_outputs(b)
    if first.shape != second.shape:
        raise ShapeError(f"the two samples must have one shape; got {first.shape} and {second.shape}")
    return np.abs(np.sort(first, axis=0) - np.sort(second, axis=0)).mean(axis=0)
