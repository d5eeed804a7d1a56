"""The certified bounds of the streaming distance."""

import math

import torch
from torch import Tensor

from wncore_torch.plain.normal import cdf_integral


def distance_bounds(edges: Tensor, counts: Tensor, sums: Tensor, powers: Tensor) -> tuple[Tensor, Tensor]:
    """Follow `wncore.streaming.distance_bounds` line by line; that module explains it."""
    real = torch.finfo(torch.float64)
    n, bins = counts.sum(1, keepdim=True), edges.shape[1] - 1
    centre, unit = edges[:, (bins + 1) // 2, None], edges[:, -1:] - edges[:, :1]
    first, second = powers[:, :1] / n, powers[:, 1:2] / n
    variance = second - first**2
    known = variance > 4 * real.eps * n * second
    variance = torch.where(known, variance, 1.0)
    std = unit * variance.sqrt()
    z, heights = ((edges - centre) - unit * first) / std, sums / (n * std)

    f = counts[:, :-1].cumsum(1).double() / n  # sums of integers are exact on every device
    g, g_integral, h = torch.special.ndtr(z), cdf_integral(z), z.diff(dim=1)
    a, b, c, d = f[:, :-1], f[:, 1:], g[:, :-1], g[:, 1:]
    gap = (b * h - heights[:, 1:-1] - g_integral.diff(dim=1)).abs()

    rise = (d - c).clamp(min=real.tiny)
    alpha, beta = (c - a).clamp(min=0), (b - d).clamp(min=0)
    s = h * (beta + rise / 2) / (alpha + beta + rise)
    cross = alpha * s + rise * s**2 / (2 * h).clamp(min=real.tiny)
    cross = torch.where(b < d, torch.minimum(cross, (b - c) ** 2 * h / (2 * rise)), cross)
    cross = torch.where(a > c, torch.minimum(cross, (d - a) ** 2 * h / (2 * rise)), cross)
    cross = torch.minimum(cross + h**3 / 12 * 0.25, torch.minimum(b - c, d - a) * h)
    open_area = torch.where((b <= c) | (d <= a), 0.0, 2 * cross)

    tails = torch.stack([-heights[:, 0], heights[:, -1]])
    gauss = torch.stack([g_integral[:, 0], cdf_integral(-z[:, -1])])
    low = gap.sum(1) + (tails - gauss).abs().sum(0)
    high = (gap + open_area).sum(1) + (tails + gauss).sum(0)
    reach = 1 + z.abs().amax(1) + (second / variance)[:, 0]
    rounding = 4 * real.eps * (n[:, 0] + bins) * reach
    low, high = (low - rounding).clamp(min=0), (high + rounding).clamp(max=math.sqrt(2))
    unknown = (second[:, 0] > 0).double() * math.sqrt(2)
    return torch.where(known[:, 0], low, 0.0), torch.where(known[:, 0], high, unknown)
