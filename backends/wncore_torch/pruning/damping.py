"""Making Gram matrices positive definite, each by the first ridge of the core's ladder that will do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wncore.errors import InputError
from wncore.pruning.damping import RUNGS, Damping, ladder

UNIT = 2.0**-53
"""Unit roundoff of float64."""


@dataclass(frozen=True, eq=False)
class Damped:
    """Positive definite matrices in float64, what made them so, and their factors, made when asked for."""

    h: Tensor
    """(k, d, d)"""
    dead: Tensor
    """(k, d) inputs that are zero on every token; 1 stands on their diagonal."""
    ridge: Tensor
    """(k,)"""
    raised: Tensor
    """(k,)"""

    @cached_property
    def inverse_factor(self) -> Tensor:
        """The upper U with H^-1 = U'U, by no inverse: H = RR' with R upper is Cholesky from the end, and U = R^-1."""
        upper = torch.linalg.cholesky(self.h.flip(1, 2)).flip(1, 2)
        eye = torch.eye(upper.shape[1], dtype=upper.dtype, device=upper.device)
        return torch.linalg.solve_triangular(upper, eye.expand_as(upper), upper=True)

    @cached_property
    def inverse(self) -> Tensor:
        """H^-1 (k, d, d), symmetric to the bit."""
        lower = torch.cholesky_inverse(torch.linalg.cholesky(self.h)).tril()
        return lower + lower.tril(-1).mT

    @cached_property
    def unit(self) -> Tensor:
        """(k, d): divided by it on both sides, H has a unit diagonal."""
        return self.h.diagonal(dim1=1, dim2=2).sqrt()

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (k, d) and eigenvectors (k, d, d) of H with a unit diagonal."""
        return torch.linalg.eigh(self.h / (self.unit[:, :, None] * self.unit[:, None]))


def damp(h: Tensor, asked: Sequence[float], damping: Damping) -> Damped:
    """Add the first ridge of its ladder with which each matrix can be factorised: (k, d, d), (k,).

    Raises
    ------
    InputError
        If no rung of the ladder will do for one of them.
    """
    before = h.diagonal(dim1=1, dim2=2)
    dead = before == 0
    share = before.mean(dim=1, keepdim=True) if damping == "published" else before
    ladders = before.new_tensor([_rungs(ridge) for ridge in asked])
    damped, raised = h.clone(), torch.zeros_like(before[:, 0], dtype=torch.int64)
    for _ in range(RUNGS):
        ridge = ladders.gather(1, raised[:, None])
        diagonal = before + ridge * share
        damped.diagonal(dim1=1, dim2=2).copy_(torch.where(dead, 1.0, diagonal))
        good = _positive_definite(damped)
        if good.all():
            return Damped(damped, dead, ridge[:, 0], raised)
        raised = raised + ~good
    raise InputError("a Gram matrix is not positive semidefinite, whatever the ridge; sum x x' over tokens again")


def _rungs(ridge: float) -> list[float]:
    """Return the whole ladder; beyond its end, where nothing is positive definite any more, it is infinite."""
    rungs = [ladder(ridge, raised) for raised in range(RUNGS)]
    return [rung if rung <= max(ridge, 1.0) else math.inf for rung in rungs]


def _positive_definite(h: Tensor) -> Tensor:
    diagonal = h.diagonal(dim1=1, dim2=2)
    scale = diagonal.sqrt()
    scaled = (h / scale[:, None]).div_(scale[:, :, None])
    scaled.diagonal(dim1=1, dim2=2).sub_(4 * h.shape[1] * UNIT)
    factor, info = torch.linalg.cholesky_ex(scaled)
    return (diagonal > 0).all(dim=1) & (info == 0) & factor.diagonal(dim1=1, dim2=2).isfinite().all(dim=1)
