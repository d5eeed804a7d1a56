"""How far a score can be trusted: the noise floor of Gaussian neurons, and a jackknife error per neuron."""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Array
from wncore.errors import InputError
from wncore.histograms import Histogram
from wncore.streaming import bounds_of

GROUPS = 20
"""Of the jackknife."""
LEVELS = (0.5, 0.95, 0.99, 0.999)
FLOOR = {"exact": (0.80, 1.19, 1.40, 1.66), "sampled": (1.46, 2.33, 2.82, 3.45)}
"""Quantiles, at `LEVELS`, of sqrt(n) times the distance of n standardised independent Gaussian tokens, for the exact
distance and for the sampled estimator. Simulated by benchmarks/noise_floor.py with 20,000 to 250,000 draws at n = 64 to
16,384; they vary by 5 % over that range."""


def noise_floor(tokens: int, level: float = 0.95, estimator: str = "exact") -> float:
    """Return the distance that a truly Gaussian neuron stays under with probability `level`, in deviations.

    Tokens of a text are dependent, so the true floor is somewhat higher: compare a score with its jackknife error too.

    >>> round(noise_floor(2_500), 4)
    0.0238

    Raises
    ------
    InputError
        If the level is not one of `LEVELS`.
    """
    if level not in LEVELS:
        raise InputError(f"no noise floor is tabulated for level {level}; choose one of {', '.join(map(str, LEVELS))}")
    quantiles = FLOOR["sampled" if estimator == "sampled" else "exact"]
    return quantiles[LEVELS.index(level)] / float(np.sqrt(tokens))


def token_groups(sequence: NDArray[np.int64], groups: int = GROUPS) -> NDArray[np.int64]:
    """Assign tokens to contiguous groups: the number of each token's sequence (n,), rising -> group (n,).

    Whole sequences stay together, since the tokens of one are dependent; with fewer sequences than groups, runs of
    tokens take their place. There are never more groups than tokens.

    >>> token_groups(np.array([0, 0, 1, 1, 2, 2]), groups=3)
    array([0, 0, 1, 1, 2, 2])
    """
    _, rank = np.unique(sequence, return_inverse=True)
    count = int(rank[-1]) + 1
    if count < groups:
        rank, count = np.arange(len(sequence)), len(sequence)
    return rank * min(groups, count) // count


def jackknife_error(
    total: Histogram, groups: Sequence[Histogram], bounds: Callable[[Histogram], tuple[Array, Array]] = bounds_of
) -> Array:
    """Standard error of every neuron's distance by the delete-a-group jackknife, (m,).

    error^2 = (G - 1) / G sum_g (WD without group g - their mean)^2. Each leave-one-out distance is the lower bound of
    `distance_bounds` on the total histogram minus the group's: nothing is sorted again. Source: Efron & Tibshirani, An
    Introduction to the Bootstrap (1993), chapter 11. NaN with fewer than two groups, or two tokens a group. Arrays are
    NumPy's or a backend's, as those of the histograms.
    """
    if not enough_groups(total.tokens, len(groups)):
        return np.full(len(total.counts), np.nan)
    return spread_without([bounds(total - group)[0] for group in groups])


def enough_groups(tokens: int, groups: int) -> bool:
    """Say whether so many groups give an error: two of them, and two tokens in each."""
    return groups >= 2 and tokens >= 2 * groups


def spread_without(without: Sequence[Array]) -> Array:
    """Return the error of distances without one group after the other, (m,) each: the sum of `jackknife_error`."""
    mean = reduce(add, without) / len(without)  # group by group: `sum` adds up a single neuron in another order
    spread = reduce(add, [(one - mean) * (one - mean) for one in without])
    return ((len(without) - 1) / len(without) * spread) ** 0.5
