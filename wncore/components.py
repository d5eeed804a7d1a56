"""Principal components from additive moments: no pass over the tokens but the one that summed them up."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh

from wncore.errors import InputError
from wncore.normal import Float


def principal_components(gram: ArrayLike, total: ArrayLike, count: int, rank: int) -> tuple[Float, Float, Float]:
    """Return mean, the first components and the variance along each: (d, d), (d,) -> (d,), (r, d), (r,).

    The eigenvectors of gram / n - mean mean', largest variance first, of length 1; the largest entry of each is
    positive. Source: Jolliffe 2002, Principal Component Analysis.

    Raises
    ------
    InputError
        If there is no token, or the rank is not between 1 and d.

    >>> mean, components, variance = principal_components([[20.0, 0.0], [0.0, 2.0]], [0.0, 0.0], count=2, rank=1)
    >>> components, variance
    (array([[1., 0.]]), array([10.]))
    """
    sums, moments = np.asarray(total, np.float64), np.asarray(gram, np.float64)
    d = len(sums)
    if count < 1 or not 1 <= rank <= d:
        raise InputError(f"{count} tokens of {d} inputs have 1 to {d} principal components; got {rank}")
    mean = sums / count
    variance, vectors = eigh(moments / count - np.outer(mean, mean), subset_by_index=[d - rank, d - 1])
    components = vectors.T[::-1]
    largest = np.abs(components).argmax(axis=1)
    sign = np.where(components[np.arange(rank), largest] < 0, -1.0, 1.0)
    return mean, components * sign[:, None], np.maximum(variance[::-1], 0.0)
