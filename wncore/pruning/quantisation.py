"""Rounding weights to a grid of 2^bits levels: per output channel, asymmetric, between the least and largest weight."""

import numpy as np
from numpy.typing import ArrayLike

from wncore.normal import Float


def quantisation_grid(w: ArrayLike, bits: int) -> tuple[Float, Float]:
    """Return the step and the level of zero for each row: (m, c) -> (m,), (m,).

    The grid spans [min(w, 0), max(w, 0)], and zero is one of its levels, so that pruned weights stay zero. Source:
    GPTQ, arXiv:2210.17323.
    """
    weights = np.asarray(w, np.float64)
    low, high = np.minimum(weights.min(axis=1), 0.0), np.maximum(weights.max(axis=1), 0.0)
    step = (high - low) / (2**bits - 1)
    step = np.where(step > 0, step, 1.0)
    return step, np.round(-low / step)


def quantise(w: ArrayLike, step: Float, zero: Float, bits: int) -> Float:
    """Round each weight of a column to its row's grid: (m,), (m,), (m,) -> (m,).

    >>> step, zero = quantisation_grid([[-1.0, 2.0]], bits=2)
    >>> quantise([0.6], step, zero, bits=2)
    array([1.])
    """
    level = np.clip(np.round(np.asarray(w, np.float64) / step) + zero, 0, 2**bits - 1)
    return (level - zero) * step
