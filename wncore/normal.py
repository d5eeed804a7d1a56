r"""The standard normal distribution, as far as a Wasserstein distance needs it.

Letters: phi is the density, Phi the distribution function, both from SciPy's Cephes routines (full float64 precision).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Float = NDArray[np.float64]


def density(t: Float) -> Float:
    """phi(t) = exp(-t^2 / 2) / sqrt(2 pi); zero at plus and minus infinity."""
    return np.exp(-0.5 * np.square(t)) / np.sqrt(2 * np.pi)


def cdf_integral(t: Float) -> Float:
    """Integral of Phi from minus infinity to t: t Phi(t) + phi(t).

    >>> float(cdf_integral(np.array(0.0)))  # 1 / sqrt(2 pi)
    0.3989422804014327
    """
    return t * ndtr(t) + density(t)


@lru_cache(maxsize=8)
def quantile_cells(n: int) -> tuple[Float, Float]:
    """Split the normal distribution into n cells of equal probability.

    Returns the cells' edges e_i = Phi^-1(i/n), (n + 1,), with e_0 = -inf and e_n = +inf, and the integral of Phi^-1
    over each, phi(e_{i-1}) - phi(e_i), (n,). Both are made exactly antisymmetric, which also keeps full precision
    close to probability 1. The arrays are cached and read-only.

    >>> quantile_cells(2)[0]
    array([-inf,   0.,  inf])
    """
    lower = ndtri(np.arange(n // 2 + 1) / n)  # up to the median
    edges = np.concatenate([lower, -lower[: n + 1 - len(lower)][::-1]])
    if n % 2 == 0:
        edges[n // 2] = 0.0
    means = -np.diff(density(edges))
    edges.flags.writeable = means.flags.writeable = False
    return edges, means
