"""Clusters with few tokens: what their experts borrow from the whole layer, and which are merged away.

A cluster with fewer tokens than inputs has a Gram matrix without full rank: an expert pruned on it alone fits those
tokens and little else. So each cluster's matrix is moved towards that of all tokens, as if `prior` times d of them had
been seen beside its own. Source: shrinkage of covariance matrices, Ledoit & Wolf 2004, with the weight of a conjugate
prior.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.normal import Float


def own_share(tokens: ArrayLike, inputs: int, prior: float) -> Float:
    """Return how much each cluster's own matrix counts, n_c / (n_c + prior d): (k,) -> (k,) in [0, 1].

    >>> own_share([144, 0], inputs=576, prior=0.25)
    array([0.5, 0. ])
    """
    count, borrowed = np.asarray(tokens, np.float64), prior * inputs
    return np.divide(count, count + borrowed, out=np.zeros_like(count), where=count + borrowed > 0)


def shrink(grams: ArrayLike, tokens: ArrayLike, own: ArrayLike) -> Float:
    """Move each cluster's Gram matrix towards that of all tokens: (k, d, d), (k,), (k,) -> (k, d, d).

    Per token H + own (H_c - H), times n_c, and n_c = 1 for an empty cluster. One cluster alone keeps its bits.
    """
    parts, count, share = np.asarray(grams, np.float64), np.asarray(tokens, np.float64), np.asarray(own, np.float64)
    whole, every = parts.sum(axis=0), count.sum()
    scale = np.maximum(count, 1.0) / every
    return np.array([part + (1 - a) * (s * whole - part) for part, a, s in zip(parts, share, scale, strict=True)])


def expert_ridges(tokens: ArrayLike, inputs: int, own: ArrayLike) -> Float:
    """Choose a ridge for each shrunk matrix: d over the tokens behind it, between 0.01 and 1: (k,), (k,) -> (k,).

    A mixture of two means has the variance of 1 / n_eff = 1 / n + own^2 (1 / n_c - 1 / n) tokens, since the cluster's
    are among all n. One cluster alone gets `wncore.pruning.damping.chosen_ridge`.

    >>> expert_ridges([1000, 9000], inputs=100, own=[1.0, 0.0])
    array([0.1 , 0.01])
    """
    count, share = np.asarray(tokens, np.float64), np.asarray(own, np.float64)
    all_of_them = inputs / count.sum()
    return np.clip(all_of_them + share**2 * (inputs / np.maximum(count, 1.0) - all_of_them), 0.01, 1.0)


def starved(counts: NDArray[np.int64], least: int) -> int | None:
    """Return the smallest cluster if it has fewer than `least` tokens and is not the only one."""
    smallest = int(counts.argmin())
    return smallest if counts[smallest] < least and len(counts) > 1 else None
