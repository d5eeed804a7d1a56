"""Gram matrices: what pruning, clustering and output statistics need to know of a layer's inputs."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.normal import Float


def gram(x: ArrayLike, labels: ArrayLike, k: int) -> tuple[Float, Float, NDArray[np.int64]]:
    """Sum x x', x and 1 over the tokens of each of k clusters: (n, d), (n,) -> (k, d, d), (k, d), (k,).

    Additive over tokens; an empty cluster gives zeros. The sums are float64 whatever dtype x has.

    >>> gram([[1.0, 2.0], [3.0, 0.0]], [0, 0], k=1)[0]
    array([[[10.,  2.],
            [ 2.,  4.]]])
    """
    inputs, cluster = np.asarray(x, np.float64), np.asarray(labels)
    parts = [inputs[cluster == c] for c in range(k)]
    grams = np.array([part.T @ part for part in parts])
    return grams, np.array([part.sum(axis=0) for part in parts]), np.array([len(part) for part in parts], np.int64)
