r"""The mapping difficulty of a neuron: how far apart it maps similar inputs.

Over p disjoint random pairs of tokens (i, j),

    MD = mean over pairs of (|y_i - y_j| / median |dy|) / (||x_i - x_j||_2 / max ||dx||_2),

the median over a neuron's pairs, the maximum over the layer's, x and y as they are. Source: arXiv:2405.15756 and its
public code (50,000 pairs). Even with y shuffled against x a Gaussian neuron has E|dy| / median|dy| = 1.183, and with
heavy tails more, so part of any correlation of MD and the Wasserstein distance is mechanical: report the shuffled
MD beside it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.errors import InputError
from wncore.normal import Float

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Disjoint pairs of tokens; `dropped` pairs had the same input twice and say nothing of a mapping."""

    left: Indices
    right: Indices
    dropped: int = 0


def draw_pairs(tokens: int, pairs: int, seed: int) -> Pairs:
    """Draw up to `pairs` disjoint pairs, at most tokens // 2: no token is in two of them.

    >>> drawn = draw_pairs(5, pairs=100, seed=0)
    >>> len(drawn.left), len({*drawn.left, *drawn.right})
    (2, 4)
    """
    if pairs < 0:
        raise InputError(f"the number of pairs cannot be negative; got {pairs}")
    order = np.random.default_rng(seed).permutation(tokens)
    count = min(pairs, tokens // 2)
    return Pairs(order[:count], order[count : 2 * count])


def mapping_difficulty(x: ArrayLike, y: ArrayLike, left: ArrayLike, right: ArrayLike) -> Float:
    """MD of every neuron over the given pairs: (n, d), (n, m), (p,), (p,) -> (m,), without unit.

    No pair may hold the same input twice. 0 stands for undefined: fewer than two pairs, or a median of 0; a defined MD
    is at least 1/2. The median of an even number of pairs is the mean of the two middle ones.

    >>> x, y = np.array([[0.0], [1.0], [0.0], [2.0]]), np.array([[0.0], [1.0], [0.0], [3.0]])
    >>> mapping_difficulty(x, y, [0, 2], [1, 3])  # median 2: (1/2 / (1/2) + 3/2 / (2/2)) / 2
    array([1.25])
    """
    inputs, outputs = np.asarray(x, np.float64), np.asarray(y, np.float64)
    left, right = np.asarray(left), np.asarray(right)
    if len(left) < 2:
        return np.zeros(outputs.shape[1])
    dx = np.linalg.norm(inputs[left] - inputs[right], axis=1)
    dy = np.abs(outputs[left] - outputs[right])
    median = np.median(dy, axis=0)
    defined = median > 0
    ratio = dy / np.where(defined, median, 1.0) / (dx / dx.max())[:, None]
    return np.where(defined, ratio.mean(axis=0), 0.0)
