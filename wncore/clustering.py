r"""Clusters of tokens: k-means, one step of Lloyd's algorithm at a time.

Sources: Lloyd 1982, doi:10.1109/TIT.1982.1056489; k-means++, Arthur & Vassilvitskii 2007.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.normal import Float


def lloyd(x: ArrayLike, centroids: ArrayLike) -> tuple[NDArray[np.int64], Float, NDArray[np.int64], Float]:
    """Give each point to its nearest centroid, and sum up what each gets: (n, r), (k, r) -> (n,), (k, r), (k,), (k,).

    Returns the labels argmin_c ||x_t - centroid_c||, ties to the lowest; and of each cluster the sum of its points,
    their count, and its inertia, sum ||x_t - centroid||^2. All but the labels, which follow each other, are additive
    over points; an empty cluster gives zeros. The sums are float64 whatever dtype x has.

    >>> labels, sums, counts, inertia = lloyd([[0.0], [1.0], [5.0]], [[1.0], [4.0]])
    >>> labels, counts, inertia
    (array([0, 0, 1]), array([2, 1]), array([1., 1.]))
    """
    points, centres = np.asarray(x, np.float64), np.asarray(centroids, np.float64)
    gaps = np.array([np.square(points - centre).sum(axis=1) for centre in centres])
    labels = gaps.argmin(axis=0)
    mine = labels == np.arange(len(centres))[:, None]
    sums = np.array([points[chosen].sum(axis=0) for chosen in mine])
    return labels, sums, mine.sum(axis=1), np.where(mine, gaps, 0.0).sum(axis=1)
