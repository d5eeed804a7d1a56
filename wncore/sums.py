"""Sums of x x' over a layer's tokens, cluster by cluster, the tokens that only judge apart from the others."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wncore.errors import InputError, NonFiniteError
from wncore.layers.activations import CHUNK, Activations
from wncore.layers.pieces import LEAST, TreeSum, add_arrays, cut, step_of
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

    The order of adding is fixed (`wncore.layers.pieces`).

    Raises
    ------
    InputError
        As `Activations.calibration`; if the squares of an input vanish.
    NonFiniteError
        If an input holds NaN or infinity, or the sums overflow.
    """
    tokens, backend, judged_from = activations.tokens, activations.backend, activations.calibration
    labels = np.zeros(tokens.count, np.int64) if labels is None else labels
    d, dtype = activations.input.columns, activations.dtype
    halves = TreeSum(add_arrays), TreeSum(add_arrays)
    with np.errstate(over="ignore", invalid="ignore"):
        for piece in cut(tokens, LEAST):
            sums: list[tuple | None] = [None, None]
            done = piece.tokens.start
            for rows in piece.steps(step_of(d, np.dtype(dtype).itemsize)):
                x = activations.input.floats([rows], tokens.keep)  # what is on a device stays there
                edges = [done, min(max(done, judged_from), done + len(x)), done + len(x)]
                for half, (low, high) in enumerate(pairwise(edges)):
                    if low < high:
                        native = backend.asarray(x[low - done : high - done], dtype)
                        found = backend.gram(native, backend.asarray(labels[low:high], "int64"), k)
                        before = sums[half]
                        sums[half] = found if before is None else add_arrays(before, found)
                done += len(x)
                activations.tick(0)
            for total, part in zip(halves, sums, strict=True):
                if part is not None:
                    total.add(part)
    calibration, held_out = (half.result() for half in halves)
    assert calibration is not None  # two tokens at least are not held out
    grams, totals, counts = map(backend.to_numpy, calibration)
    judged, _, judged_counts = (
        (None, None, np.zeros(k, np.int64)) if held_out is None else map(backend.to_numpy, held_out)
    )
    squares = np.einsum("kii->i", grams) + (0 if judged is None else np.einsum("kii->i", judged))
    if not (np.isfinite(grams).all() and (judged is None or np.isfinite(judged).all())):
        raise NonFiniteError(f"{activations.name}: the squares of its inputs overflow {dtype}; scale the input down")
    if not _are_zero(activations, np.flatnonzero(squares == 0)):
        raise InputError(f"{activations.name}: the squares of its inputs vanish in {dtype}; scale the input up")
    return ClusterSums(grams, totals, counts, judged, judged_counts)


def _are_zero(activations: Activations, channels: NDArray[np.int64]) -> bool:
    """Whether some channels are zero on every token that counts, and not merely small: read once more, if there are."""
    if not len(channels):
        return True
    source = activations.input
    for rows in source.chunks(source.columns * source.itemsize, CHUNK):
        if np.any(activations.read_input(rows)[:, channels]):
            return False
    return True
