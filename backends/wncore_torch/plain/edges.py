"""Where the bins of a streaming distance lie: quantiles of a mixture of Gaussians, for many neurons at once."""

import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from wncore.norms import row_sums
from wncore_torch.plain.blocks import by_neuron

FEW = 1024
"""Tokens that median and quartiles are taken of, as in the definition."""


def choose_edges(y: Tensor, bins: int) -> Tensor:
    """Follow `wncore.histograms.choose_edges` in float64: (n, m) -> (m, bins + 1)."""
    nodes = ndtri(torch.linspace(0, 1, 43, dtype=torch.float64, device=y.device)[1:-1])
    steps = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=y.device)

    def work(rows: Tensor) -> Tensor:
        first = rows.double()
        mean, spread, median, body = _location_and_scale(first)
        parts = ((0.47, mean, spread), (0.47, median, body), (0.06, mean, 8 * spread))
        grid = torch.cat([at[:, None] + 2.0**0.5 * width[:, None] * nodes for _, at, width in parts], dim=1)
        grid = grid.sort(dim=1).values
        mixture = torch.zeros_like(grid)
        for weight, at, width in parts:
            mixture += weight * ndtr((grid - at[:, None]) / (2.0**0.5 * width[:, None]))
        levels = mixture[:, :1] + steps * (mixture[:, -1:] - mixture[:, :1])
        edges = _interpolate(levels, mixture, grid)
        constant = first.amax(dim=1) == first.amin(dim=1)
        middle = (bins + 1) // 2  # the centre: its power sums vanish exactly
        edges[:, middle] = torch.where(constant, first[:, 0], edges[:, middle])
        return edges

    return by_neuron(work, y)


def _interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Interpolate row by row, flat beyond the ends: (m, q), (m, p), (m, p) -> (m, q); never falls."""
    right = torch.searchsorted(x.contiguous(), at.contiguous(), right=True).clamp(1, x.shape[1] - 1)
    x0, x1, y0, y1 = x.gather(1, right - 1), x.gather(1, right), y.gather(1, right - 1), y.gather(1, right)
    share = torch.where(x1 > x0, (at - x0) / (x1 - x0).clamp(min=torch.finfo(x.dtype).tiny), 0.0).clamp(0.0, 1.0)
    return torch.cummax(y0 + share * (y1 - y0), dim=1).values


def _location_and_scale(first: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, deviation, median and deviation of the body of rows (m, n), (m,) each, none of them zero."""
    quarter, median, three_quarters = _quartiles(first[:, :FEW])
    mean = row_sums(first) / first.shape[1]
    spread = (
        row_sums((first - mean[:, None]).square()) / first.shape[1]
    ).sqrt()  # torch's own loses digits far from zero
    guess = torch.where(mean != 0, mean.abs() * 2.0**-10, 1.0)  # a constant batch says nothing of the scale
    spread = torch.where(spread > 2.0**-40 * mean.abs(), spread, guess)
    body = (three_quarters - quarter) / 1.349  # the interquartile range of N(0, 1)
    return mean, spread, median, torch.where(body > 2.0**-20 * spread, body, spread)


def _quartiles(rows: Tensor) -> list[Tensor]:
    """Interpolate between order statistics, as torch.quantile does, which takes no more than 2^24 numbers."""
    ordered, last = rows.sort(dim=1).values, rows.shape[1] - 1
    found = []
    for quarters in (1, 2, 3):
        low, rest = divmod(last * quarters, 4)
        high = min(low + 1, last)
        found.append(torch.lerp(ordered[:, low], ordered[:, high], rest / 4))
    return found
