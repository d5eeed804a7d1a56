"""How far an answer may stray, in units of its own rounding.

A fixed tolerance is either too loose to reject TensorFloat32 or too tight for a right float32 backend. An error budget
grows with the operation instead: |got - want| <= 8 sqrt(terms) u(dtype) scale. The root is how far rounding errors walk
at random (Higham and Mary 2019, doi:10.1137/18M1226312); the scale comes from each operation's contract.
"""

import numpy as np
from numpy.typing import ArrayLike

from wncore.normal import Float

FACTOR = 8.0
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff of each dtype: half the distance from 1 to the next number."""


def budget(dtype: str, terms: ArrayLike, scale: ArrayLike) -> Float:
    """Return how far off each element may be: 8 sqrt(terms) u(dtype) scale."""
    return FACTOR * np.sqrt(terms) * UNIT[dtype] * np.asarray(scale, np.float64)


def only_if(right: bool) -> float:
    """Return the share where nothing is forgiven: 0 if right, infinite if not."""
    return 0.0 if right else np.inf


def share(got: ArrayLike, want: ArrayLike, dtype: str, terms: ArrayLike, scale: ArrayLike) -> float:
    """Return the largest share of the budget that an element uses: above 1 fails, NaN counts as infinite.

    `want`, `terms` (how many numbers are added up) and `scale` (what rounding errors are relative to: for a sum, the
    sum of the absolute values) are given for each element, or broadcast. Where the scale is 0, only equality will do.

    >>> share([1.0 + 2.0**-22], [1.0], "float32", terms=1, scale=1.0)
    0.5
    >>> share([float("nan")], [1.0], "float32", terms=1, scale=1.0)
    inf
    """
    answer, truth = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if answer.shape != truth.shape:
        return np.inf
    with np.errstate(all="ignore"):
        gap = np.abs(answer - truth)
        used = np.where(gap == 0, 0.0, gap / budget(dtype, terms, scale))
    return float(np.max(np.where(np.isnan(used), np.inf, used), initial=0.0))
