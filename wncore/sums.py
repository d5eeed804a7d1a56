"""Sums of x x' over a layer's tokens, cluster by cluster, the tokens that only judge apart from the others."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wncore.errors import InputError, NonFiniteError
from wncore.layers.activations import Activations
from wncore.normal import Float


@dataclass(frozen=True, eq=False)
class ClusterSums:
    """Additive moments of a layer's inputs, of k clusters of tokens."""

    grams: Float
    """(k, d, d) over the tokens to calibrate by"""
    totals: Float
    """(k, d) sums of x over the same tokens"""
    tokens: NDArray[np.int64]
    """(k,)"""
    holdout: Float | None
    """(k, d, d) over the tokens held out; None if there are none"""
    holdout_tokens: NDArray[np.int64]
    """(k,)"""


def sum_clusters(activations: Activations, labels: NDArray[np.int64] | None = None, k: int = 1) -> ClusterSums:
    """Read a layer's inputs once and sum them up by cluster; `labels` (n,) are those of all tokens that count.

    Raises
    ------
    InputError
        As `Activations.calibration`; if the squares of an input vanish.
    NonFiniteError
        If an input holds NaN or infinity, or the sums overflow.
    """
    tokens, source, backend = activations.tokens, activations.input, activations.backend
    first_judged = activations.calibration
    labels = np.zeros(tokens.count, np.int64) if labels is None else labels
    d, dtype = source.columns, activations.dtype
    step = max(256, min(activations.memory // 8, 2**26) // (d * (8 if dtype == "float64" else 4)))
    grams, totals, counts = np.zeros((2, k, d, d)), np.zeros((2, k, d)), np.zeros((2, k), np.int64)
    largest, done = np.zeros(d), 0
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, source.rows, step):
            x = activations.read_input(slice(first, min(source.rows, first + step)))
            largest = np.maximum(largest, np.maximum(x.max(axis=0, initial=0), -x.min(axis=0, initial=0)))
            edges = [done, min(max(done, first_judged), done + len(x)), done + len(x)]
            for half, (low, high) in enumerate(pairwise(edges)):
                if low < high:
                    native = backend.asarray(x[low - done : high - done], dtype)
                    found = backend.gram(native, backend.asarray(labels[low:high], "int64"), k)
                    for total, part in zip((grams, totals, counts), map(backend.to_numpy, found), strict=True):
                        total[half] += part
            done += len(x)
            activations.tick(0)
    if not np.isfinite(grams).all():
        raise NonFiniteError(f"{activations.name}: the squares of its inputs overflow {dtype}; scale the input down")
    if np.any((np.einsum("hkii->i", grams) == 0) & (largest > 0)):
        raise InputError(f"{activations.name}: the squares of its inputs vanish in {dtype}; scale the input up")
    kept_back = grams[1] if first_judged < tokens.count else None
    return ClusterSums(grams[0], totals[0], counts[0], kept_back, counts[1])
