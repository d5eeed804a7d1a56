"""Making Gram matrices positive definite, each by the first ridge of the core's ladder that will do."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wncore.errors import InputError
from wncore.pruning.damping import RUNGS, Damping, ladder

UNIT = 2.0**-53
"""Unit roundoff of float64."""
BATCHED = 512
"""Matrices of more inputs are factorised one by one: CUDA's batched factorisation is for small ones."""


@dataclass(frozen=True, eq=False)
class Damped:
    """Positive definite matrices in float64, what made them so, and their factors, made when asked for."""

    gram: Tensor
    """(k, d, d) as given"""
    diagonal: Tensor
    """(k, d) with the ridge"""
    dead: Tensor
    """(k, d) inputs that are zero on every token; 1 stands on their diagonal."""
    ridge: Tensor
    """(k,)"""
    raised: Tensor
    """(k,)"""

    @cached_property
    def h(self) -> Tensor:
        """The matrices with their ridge (k, d, d)."""
        return _with_diagonal(self.gram.clone(), self.diagonal)

    @cached_property
    def upper(self) -> Tensor:
        """The upper R with H = RR' (k, d, d), by Cholesky from the end; H^-1 = U'U with U = R^-1."""
        upper = torch.empty_like(self.gram, memory_format=torch.contiguous_format)
        for i in _batches(self.gram):
            backwards = torch.linalg.cholesky(_with_diagonal(self.gram[i].flip(1, 2), self.diagonal[i].flip(1)))
            upper[i] = backwards.flip(1, 2)
        return upper

    @cached_property
    def inverse(self) -> Tensor:
        """H^-1 (k, d, d), symmetric to the bit."""
        lower = torch.cholesky_inverse(torch.linalg.cholesky(self.h)).tril()
        return lower + lower.tril(-1).mT

    @cached_property
    def unit(self) -> Tensor:
        """(k, d): divided by it on both sides, H has a unit diagonal."""
        return self.diagonal.sqrt()

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (k, d) and eigenvectors (k, d, d) of H with a unit diagonal."""
        scaled = (self.gram / self.unit[:, :, None]).div_(self.unit[:, None])
        return torch.linalg.eigh(_with_diagonal(scaled, torch.ones_like(self.diagonal)))


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
    raised = torch.zeros_like(before[:, 0], dtype=torch.int64)
    bad = torch.arange(len(h), device=h.device)
    for _ in range(RUNGS):
        ridge = ladders.gather(1, raised[:, None])
        diagonal = torch.where(dead, 1.0, before + ridge * share)
        grams = h if len(bad) == len(h) else h[bad]  # each is tried until it will do, no more often
        bad = bad[~_positive_definite(grams, diagonal[bad])]
        if not len(bad):
            return Damped(h, diagonal, dead, ridge[:, 0], raised)
        raised[bad] += 1
    raise InputError("a Gram matrix is not positive semidefinite, whatever the ridge; sum x x' over tokens again")


def _rungs(ridge: float) -> list[float]:
    """Return the whole ladder; beyond its end, where nothing is positive definite any more, it is infinite."""
    rungs = [ladder(ridge, raised) for raised in range(RUNGS)]
    return [rung if rung <= max(ridge, 1.0) else math.inf for rung in rungs]


def _positive_definite(h: Tensor, diagonal: Tensor) -> Tensor:
    """Say which matrices are, with this diagonal: (k, d, d), (k, d) -> (k,)."""
    good = ((diagonal > 0) & diagonal.isfinite()).all(dim=1)
    least = torch.full_like(diagonal, 1 - 4 * h.shape[1] * UNIT)
    for i in _batches(h):
        scale = diagonal[i].sqrt()
        scaled = _with_diagonal((h[i] / scale[:, None]).div_(scale[:, :, None]), least[i])
        factor, info = torch.linalg.cholesky_ex(scaled)
        good[i] &= (info == 0) & factor.diagonal(dim1=1, dim2=2).isfinite().all(dim=1)
    return good


def _with_diagonal(h: Tensor, diagonal: Tensor) -> Tensor:
    h.diagonal(dim1=1, dim2=2).copy_(diagonal)
    return h


def _batches(h: Tensor) -> Iterator[slice]:
    k, d = h.shape[:2]
    size = k if d <= BATCHED else 1
    yield from (slice(first, first + size) for first in range(0, k, size))
