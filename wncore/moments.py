"""Mean, deviation, skewness and excess kurtosis of every neuron, from the additive power sums of a `Histogram`.

They are what the paper (arXiv:2405.15756) and its reviewers compare the Wasserstein distance with. All are population
moments (division by n).
"""

from dataclasses import dataclass

import numpy as np

from wncore.histograms import Counts, centre_and_unit
from wncore.normal import Float


@dataclass(frozen=True)
class Moments:
    """Per neuron, (m,) each; skewness and excess kurtosis of a constant neuron are NaN.

    Where the outputs lie so far from the middle edge that rounding hides their deviation, all but the mean are NaN.
    """

    mean: Float
    std: Float
    skewness: Float
    excess_kurtosis: Float


def moments_of(edges: Float, tokens: Counts, powers: Float) -> Moments:
    """Turn power sums about the middle edge into central moments: (m, b + 1), (m,), (m, 4) -> `Moments`.

    A neuron is constant, with deviation 0, if all its outputs are on the middle edge: its power sums vanish.
    """
    centre, unit = centre_and_unit(edges)
    s1, s2, s3, s4 = (powers / tokens[:, None]).T
    variance = s2 - s1**2
    hidden = ~(variance > 4 * np.sqrt(tokens) * np.finfo(float).eps * s2)
    scale = np.where(hidden, np.nan, variance)
    third = s3 - 3 * s1 * s2 + 2 * s1**3
    fourth = s4 - 4 * s1 * s3 + 6 * s1**2 * s2 - 3 * s1**4
    std = np.where(s2 == 0, 0.0, unit * np.sqrt(scale))
    return Moments(centre + unit * s1, std, third / scale**1.5, fourth / scale**2 - 3)
