"""Making a Gram matrix positive definite, by a ridge that is reported.

Source: MATH.md 3; the published SparseGPT (arXiv:2301.00774) adds 0.01 mean(diag H) to the diagonal, which drowns every
other channel of a layer with one massive channel. Here each input gets a ridge in proportion to its own H_jj.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.errors import InputError
from wncore.normal import Float

Damping = Literal["unit-diagonal", "published"]
DAMPINGS: tuple[Damping, ...] = get_args(Damping)
PUBLISHED_RIDGE = 0.01
SMALLEST = 1e-8
"""The first ridge that is tried after none."""
RUNGS = 20


@dataclass(frozen=True, eq=False)
class Damped:
    """A positive definite matrix, and what made it so."""

    h: Float
    """(d, d)"""
    dead: NDArray[np.bool_]
    """(d,) inputs that are zero on every token: they cost nothing; 1 stands on their diagonal."""
    ridge: float
    """Relative to each H_jj, or to their mean if published."""
    raised: int
    """How often the ridge had to be raised."""


def chosen_ridge(tokens: int, inputs: int) -> float:
    """Choose a ridge by the number of tokens behind each input: d / n, between 0.01 and 1.

    A ridge regression whose signal is as large as its noise is best with d / n (Hastie, Tibshirani & Friedman 2009,
    section 3.4.1, seen as a Gaussian prior). Fewer tokens than that fit the calibration text, and little else.

    >>> chosen_ridge(tokens=262_144, inputs=576), chosen_ridge(tokens=5_760, inputs=576)
    (0.01, 0.1)
    """
    return min(1.0, max(0.01, inputs / max(tokens, 1)))


def ladder(ridge: float, raised: int) -> float:
    """Return the ridge after so many steps: tenfold each, from `SMALLEST` if it was less."""
    return ridge if raised == 0 else max(10 * ridge, SMALLEST) * 10.0 ** (raised - 1)


def damp(h: ArrayLike, ridge: float, damping: Damping = "unit-diagonal", unit: float = 2.0**-53) -> Damped:
    """Add a ridge to a Gram matrix, the first of a fixed ladder with which it can be factorised: (d, d) -> Damped.

    H + ridge diag(H), or H + ridge mean(diag H) I if published. Scaled to a diagonal of 1, the matrix must stay
    positive definite when 4 d `unit` is taken from its diagonal: as much as rounding could have added.

    Raises
    ------
    InputError
        If the ridge is negative or not finite, or the matrix is not positive semidefinite: then no ridge up to 1, which
        would be enough for any that is, will do.

    >>> damp([[4.0, 4.0], [4.0, 4.0]], ridge=0.0).ridge     # rank one
    1e-08
    """
    if not 0 <= ridge < np.inf:
        raise InputError(f"a ridge is a positive number, or 0; got {ridge}")
    for raised in range(RUNGS):
        rung = ladder(ridge, raised)
        if rung > max(ridge, 1.0):
            break
        damped, dead = add_ridge(h, rung, damping)
        if _positive_definite(damped, unit):
            return Damped(damped, dead, rung, raised)
    raise InputError("the Gram matrix is not positive semidefinite, whatever the ridge; sum x x' over tokens again")


def add_ridge(h: ArrayLike, ridge: float, damping: Damping) -> tuple[Float, NDArray[np.bool_]]:
    """Return H with a ridge on its diagonal, 1 where an input is dead, and which inputs are: (d, d) -> (d, d), (d,)."""
    damped = np.array(h, np.float64)
    diagonal = damped.diagonal().copy()
    dead = diagonal == 0
    share = diagonal.mean() if damping == "published" else diagonal
    np.fill_diagonal(damped, np.where(dead, 1.0, diagonal + ridge * share))
    return damped, dead


def _positive_definite(h: Float, unit: float) -> bool:
    diagonal = h.diagonal()
    if not (diagonal > 0).all():
        return False
    scale = np.sqrt(diagonal)
    scaled = h / np.outer(scale, scale)
    np.fill_diagonal(scaled, 1 - 4 * len(h) * unit)
    try:
        factor = np.linalg.cholesky(scaled)
    except np.linalg.LinAlgError:
        return False
    return bool(np.isfinite(factor).all())
