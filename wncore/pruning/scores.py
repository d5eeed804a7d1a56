"""Scores that judge each weight alone."""

import numpy as np
from numpy.typing import ArrayLike

from wncore.normal import Float


def magnitude_score(w: ArrayLike) -> Float:
    """Score weights by their size, |w_ij|: (m, d) -> (m, d).

    >>> magnitude_score([[1.0, -2.0]])
    array([[1., 2.]])
    """
    return np.abs(np.asarray(w, np.float64))


def wanda_score(w: ArrayLike, h: ArrayLike) -> Float:
    """Score weights by size times the size of their input, |w_ij| sqrt(H_jj): (m, d), (d, d) -> (m, d).

    Its square is the loss if that weight alone is pruned and no other one moves. Source: Sun et al. 2023,
    arXiv:2306.11695; compared within each row there.

    >>> wanda_score([[1.0, -2.0]], [[9.0, 0.0], [0.0, 1.0]])
    array([[3., 2.]])
    """
    return magnitude_score(w) * np.sqrt(np.diagonal(np.asarray(h, np.float64)))
