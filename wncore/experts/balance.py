"""Clusters of equal size: a price on each centroid, so that every expert gets as many tokens.

The nearest centroid with a price, argmin_c ||z - c||^2 + price_c, is the nearest of the points (c, sqrt(price_c)) to
(z, 0): a balanced router is an ordinary one with a dimension more. Source: power diagrams as balanced partitions,
Aurenhammer, Hoffmann & Aronov 1998, doi:10.1007/PL00009187.
"""

import numpy as np
from numpy.typing import NDArray

from wncore.clustering import squared_gaps
from wncore.normal import Float

ROUNDS = 20
"""Of prices, then centroids."""
SWEEPS = 20
"""Over the prices, at most, in a round; the next goes on with them."""
LAST = 500
"""Over the prices, at most, when centroids have come to rest."""
CLOSE = 0.01
"""Sizes this close to equal, relatively, or within a token of it, are equal enough."""


def balance(x: NDArray, centroids: NDArray) -> tuple[Float, Float]:
    """Move centroids, and price them, until clusters are of about equal size: (n, r), (k, r) -> (k, r), (k,)."""
    points, centres = np.asarray(x, np.float64), np.asarray(centroids, np.float64)
    prices = np.zeros(len(centres))
    for _ in range(ROUNDS):
        gaps = squared_gaps(points, centres)
        prices = even_prices(gaps, prices, SWEEPS)
        labels = (gaps + prices).argmin(axis=1)
        members = [points[labels == c] for c in range(len(centres))]
        centres = np.array([own.mean(axis=0) if len(own) else old for own, old in zip(members, centres, strict=True)])
    return centres, even_prices(squared_gaps(points, centres), prices)


def even_prices(gaps: Float, prices: Float, sweeps: int = LAST) -> Float:
    """Raise the prices of crowded clusters and lower those of others, one after the other: (n, k), (k,) -> (k,).

    The new price of a cluster lets it have exactly its n / k tokens, rounded so that all are shared out, while the
    others keep theirs. The lowest is 0.
    """
    n, k = gaps.shape
    fair, prices = np.diff(np.arange(k + 1) * n // k), prices.copy()
    if n < k or k == 1:
        return np.zeros(k)
    for _ in range(sweeps):
        for c, share in enumerate(fair):
            offers = gaps + prices
            offers[:, c] = np.inf
            margin = np.partition(offers.min(axis=1) - gaps[:, c], (n - share - 1, n - share))
            prices[c] = (margin[n - share - 1] + margin[n - share]) / 2
        sizes = np.bincount((gaps + prices).argmin(axis=1), minlength=k)
        if np.abs(sizes - n / k).max() <= max(1.0, CLOSE * n / k):
            break
    return prices - prices.min()
