"""How well one statistic of the neurons predicts another: R^2 of a straight line, with a bootstrap interval."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from wncore.normal import Float
from wncore.scoring import LayerScore

BATCH = 2**20
"""Numbers that are resampled at a time."""


@dataclass(frozen=True)
class Association:
    """The least-squares line of values against a predictor over `count` neurons."""

    r_squared: float
    slope: float
    low: float
    """Ends of the interval of R^2. R^2 is never negative, so neither is `low`: without any association it lies at
    about 1/m, and a positive `low` alone shows nothing."""
    high: float
    count: int


def association(
    values: ArrayLike, predictor: ArrayLike, *, seed: int, resamples: int = 1000, confidence: float = 0.95
) -> Association:
    """Fit values (m,) = a + b predictor (m,); R^2 = cov^2 / (var var), its interval by resampling neurons.

    Neurons with NaN or infinity are left out; fewer than three, or no variance, give NaN. The interval is that of the
    percentile bootstrap. Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    >>> found = association([1.0, 2.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0], seed=0)
    >>> round(found.r_squared, 6), round(found.slope, 6), found.count
    (0.9, 0.6, 4)
    """
    y, x = np.asarray(values, np.float64), np.asarray(predictor, np.float64)
    known = np.isfinite(y) & np.isfinite(x)
    y, x = y[known], x[known]
    spread_y, spread_x = (np.ptp(each) if len(each) else 0.0 for each in (y, x))
    if len(y) < 3 or not (spread_y > 0 and spread_x > 0):
        return Association(np.nan, np.nan, np.nan, np.nan, len(y))
    y, x = y / spread_y, x / spread_x  # squares shall not leave the range
    rng, drawn = np.random.default_rng(seed), []
    batch = max(1, BATCH // len(y))
    for first in range(0, resamples, batch):
        chosen = rng.integers(0, len(y), (min(batch, resamples - first), len(y)))
        drawn.append(_r_squared(y[chosen], x[chosen]))
    low, high = np.quantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    slope = (x - x.mean()) @ (y - y.mean()) / np.square(x - x.mean()).sum() * (spread_y / spread_x)
    return Association(float(_r_squared(y, x)), float(slope), float(low), float(high), len(y))


def predictors(dense: LayerScore) -> dict[str, Float]:
    """Return what may predict the gain of a neuron: its distance, the moments of its outputs, its weights' norm, (m,).

    The norm is left out if it is not known. Source: arXiv:2405.15756, figure 7.
    """
    found = {
        "wasserstein": dense.wasserstein,
        "mean": dense.mean,
        "variance": np.square(dense.std),
        "skewness": dense.skewness,
        "excess_kurtosis": dense.excess_kurtosis,
    }
    return found if dense.weight_norm is None else found | {"weight_norm": dense.weight_norm}


def associations(relative_improvement: ArrayLike, dense: LayerScore, *, seed: int = 0) -> dict[str, Association]:
    """Say how well each of `predictors` predicts the relative improvement (m,) by experts."""
    found = predictors(dense).items()
    return {name: association(relative_improvement, predictor, seed=seed) for name, predictor in found}


def _r_squared(y: Float, x: Float) -> Float:
    """Squared correlation along the last axis; 0 where x or y does not vary."""
    y, x = (each - each[..., :1] for each in (y, x))  # equal values become exactly 0
    y, x = (each - each.mean(axis=-1, keepdims=True) for each in (y, x))
    product = np.square(x).sum(axis=-1) * np.square(y).sum(axis=-1)
    return np.square((x * y).sum(axis=-1)) / np.where(product > 0, product, 1.0)
