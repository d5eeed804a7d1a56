"""How far an answer may stray, in units of its own rounding.

A fixed tolerance is either too loose to reject TensorFloat32 or too tight for a right float32 backend. An error budget
grows with the operation instead: |got - want| <= 8 sqrt(terms) u(dtype) scale. The root is how far rounding errors walk
at random (Higham and Mary 2019, doi:10.1137/18M1226312); the scale comes from each operation's contract.

Half precision is storage: what is computed from it may stray as far as in float32, `arithmetic`, and an answer that is
kept in half precision by `one_rounding` more.
"""

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from wncore.normal import Float

FACTOR = 8.0
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff of each dtype: half the distance from 1 to the next number."""


def budget(dtype: str, terms: ArrayLike, scale: ArrayLike) -> Float:
    """Return how far off each element may be: 8 sqrt(terms) u(dtype) scale."""
    return FACTOR * np.sqrt(terms) * UNIT[dtype] * np.asarray(scale, np.float64)


def arithmetic(dtype: str) -> str:
    """Name the narrowest dtype that sums may be taken in: float32, and float64 for float64.

    >>> arithmetic("bfloat16")
    'float32'
    """
    return "float64" if dtype == "float64" else "float32"


def one_rounding(x: ArrayLike, dtype: str) -> Float:
    """Return how far each answer may have moved when it was rounded to half precision; 0 for dtypes that are wider.

    >>> one_rounding([3.0, 1e-6], "float16")
    array([9.76562500e-04, 2.98023224e-08])
    """
    sizes = np.abs(np.asarray(x, np.float64))
    if dtype == arithmetic(dtype):
        return np.zeros_like(sizes)
    power = np.ldexp(1.0, np.frexp(sizes)[1] - 1)
    return UNIT[dtype] * np.maximum(power, float(ml_dtypes.finfo(dtype).smallest_normal))


def only_if(right: bool) -> float:
    """Return the share where nothing is forgiven: 0 if right, infinite if not."""
    return 0.0 if right else np.inf


def share(
    got: ArrayLike, want: ArrayLike, dtype: str, terms: ArrayLike, scale: ArrayLike, spared: ArrayLike = 0.0
) -> float:
    """Return the largest share of the budget that an element uses: above 1 fails, NaN counts as infinite.

    `want`, `terms` (how many numbers are added up) and `scale` (what rounding errors are relative to: for a sum, the
    sum of the absolute values) are given for each element, or broadcast. Where the scale is 0, only equality will do.
    What is `spared` is forgiven before the budget is touched.

    >>> share([1.0 + 2.0**-22], [1.0], "float32", terms=1, scale=1.0)
    0.5
    >>> share([float("nan")], [1.0], "float32", terms=1, scale=1.0)
    inf
    """
    return part_used(got, want, budget(dtype, terms, scale), spared)


def part_used(got: ArrayLike, want: ArrayLike, allowed: ArrayLike, spared: ArrayLike = 0.0) -> float:
    """Return the largest part that an element uses of what it is allowed, as `share` does of the budget."""
    answer, truth = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if answer.shape != truth.shape:
        return np.inf
    with np.errstate(all="ignore"):
        gap = np.abs(answer - truth)
        gap = np.where(gap <= spared, 0.0, gap - spared)
        used = np.where(gap == 0, 0.0, gap / allowed)
    return float(np.max(np.where(np.isnan(used), np.inf, used), initial=0.0))
