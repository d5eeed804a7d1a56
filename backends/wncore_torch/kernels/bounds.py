"""The certified bounds in one pass over a neuron's bins."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wncore_torch.plain.bounds import distance_bounds as plain_bounds

HOW = "Triton; more than 4,096 bins in plain torch"
MANY = 4096
"""Bins that a program holds at once."""
EPSILON, TINY = torch.finfo(torch.float64).eps, torch.finfo(torch.float64).tiny


def distance_bounds(edges: Tensor, counts: Tensor, sums: Tensor, powers: Tensor) -> tuple[Tensor, Tensor]:
    """Follow `wncore.streaming.distance_bounds` line by line, a program a neuron: (m,), (m,)."""
    m, bins = edges.shape[0], edges.shape[1] - 1
    if bins > MANY or not m:
        return plain_bounds(edges, counts, sums, powers)
    low, high = edges.new_empty(m), edges.new_empty(m)
    arrays = [array.contiguous() for array in (edges, counts, sums, powers)]
    block = triton.next_power_of_2(bins)
    _bracket[(m,)](*arrays, low, high, bins, block, EPSILON, TINY, num_warps=max(1, min(8, block // 256)))
    return low, high


@triton.jit
def _phi(z):
    return 0.5 + 0.5 * tl.erf(z * 0.7071067811865476)


@triton.jit
def _phi_integral(z):
    return z * _phi(z) + tl.exp(-0.5 * z * z) * 0.3989422804014327


@triton.jit
def _bracket(edges, counts, sums, powers, low, high, bins, block: tl.constexpr, eps: tl.constexpr, tiny: tl.constexpr):
    least, ceiling = tl.full((), tiny, tl.float64), tl.full((), 1.4142135623730951, tl.float64)  # literals are float32
    neuron = tl.program_id(0).to(tl.int64)
    edges, counts, sums = edges + neuron * (bins + 1), counts + neuron * (bins + 2), sums + neuron * (bins + 2)
    j = tl.arange(0, block)  # bin j + 1, between the edges j and j + 1; the lower tail is bin 0
    inner = j < bins
    held = tl.load(counts + j + 1, mask=inner, other=0)
    under = tl.load(counts)
    n = (under + tl.sum(held) + tl.load(counts + bins + 1)).to(tl.float64)
    first_edge, last_edge = tl.load(edges), tl.load(edges + bins)
    centre, unit = tl.load(edges + (bins + 1) // 2), last_edge - first_edge
    first, second = tl.load(powers + neuron * 4) / n, tl.load(powers + neuron * 4 + 1) / n
    variance = second - first * first
    known = variance > 4 * eps * n * second
    variance = tl.where(known, variance, 1.0)
    std = unit * tl.sqrt(variance)
    left = ((tl.load(edges + j, mask=inner, other=0.0) - centre) - unit * first) / std
    right = ((tl.load(edges + j + 1, mask=inner, other=0.0) - centre) - unit * first) / std
    heights = tl.load(sums + j + 1, mask=inner, other=0.0) / (n * std)

    upto = (under + tl.cumsum(held)).to(tl.float64)
    b, a = upto / n, (upto - held) / n
    c, d, h = _phi(left), _phi(right), right - left
    gap = tl.abs(b * h - heights - (_phi_integral(right) - _phi_integral(left)))

    rise = tl.maximum(d - c, least)
    alpha, beta = tl.maximum(c - a, 0.0), tl.maximum(b - d, 0.0)
    s = h * (beta + rise / 2) / (alpha + beta + rise)
    cross = alpha * s + rise * s * s / tl.maximum(2 * h, least)
    cross = tl.where(b < d, tl.minimum(cross, (b - c) * (b - c) * h / (2 * rise)), cross)
    cross = tl.where(a > c, tl.minimum(cross, (d - a) * (d - a) * h / (2 * rise)), cross)
    cross = tl.minimum(cross + h * h * h / 12 * 0.25, tl.minimum(b - c, d - a) * h)
    open_area = tl.where((b <= c) | (d <= a), 0.0, 2 * cross)
    gaps, areas = tl.sum(tl.where(inner, gap, 0.0)), tl.sum(tl.where(inner, gap + open_area, 0.0))

    z_first, z_last = ((first_edge - centre) - unit * first) / std, ((last_edge - centre) - unit * first) / std
    below, above = -tl.load(sums) / (n * std), tl.load(sums + bins + 1) / (n * std)
    gauss_below, gauss_above = _phi_integral(z_first), _phi_integral(-z_last)
    lower = gaps + tl.abs(below - gauss_below) + tl.abs(above - gauss_above)
    upper = areas + below + gauss_below + above + gauss_above
    reach = 1 + tl.maximum(tl.abs(z_first), tl.abs(z_last)) + second / variance
    rounding = 4 * eps * (n + bins) * reach
    lower, upper = tl.maximum(lower - rounding, 0.0), tl.minimum(upper + rounding, ceiling)
    tl.store(low + neuron, tl.where(known, lower, 0.0))
    tl.store(high + neuron, tl.where(known, upper, tl.where(second > 0, ceiling, 0.0)))
