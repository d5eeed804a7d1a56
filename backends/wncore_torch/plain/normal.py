"""Functions of the Gaussian, as in `wncore.normal`."""

import math

import torch
from torch import Tensor


def density(t: Tensor) -> Tensor:
    """Return phi(t)."""
    return (-0.5 * t * t).exp() / math.sqrt(2 * math.pi)


def cdf_integral(t: Tensor) -> Tensor:
    """Return the integral of Phi up to t: t Phi(t) + phi(t)."""
    return t * torch.special.ndtr(t) + density(t)
