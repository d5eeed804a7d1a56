"""The exact distance: torch sorts, and one kernel does all that follows in two passes over the sorted outputs."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wncore_torch.kernels.transpose import transposed
from wncore_torch.plain.blocks import DEVICE_BLOCK
from wncore_torch.plain.distance import cells

HOW = "torch.sort, then Triton, for every dtype"
RUN, STEP = 1024, 256
"""Outputs that a program adds up at once, and that it compares with their cells: few such steps need Phi."""
WIDE, DOWN = tl.constexpr(2.0**400), tl.constexpr(2.0**-600)
NARROW, UP = tl.constexpr(2.0**-400), tl.constexpr(2.0**600)
"""Outputs that reach so far are scaled by a power of two, so that their squares stay in range."""


def gaussian_distance(y: Tensor) -> Tensor:
    """Sort each neuron, then sum over the cells of the Gaussian as the definition does: (n, m) -> (m,)."""
    edges, ends, means = cells(len(y), y.device)
    blocks = y.split(max(1, DEVICE_BLOCK // len(y)), dim=1)
    return torch.cat([_sum_of_cells(transposed(block).sort(dim=1).values, edges, ends, means) for block in blocks])


def _sum_of_cells(ordered: Tensor, edges: Tensor, ends: Tensor, means: Tensor) -> Tensor:
    m, n = ordered.shape
    out = torch.empty(m, dtype=torch.float64, device=ordered.device)
    _distance[(m,)](ordered, edges, ends, means, out, n, RUN, STEP, num_warps=4, maxnreg=64)
    return out


@triton.jit
def _distance(ordered, edges, ends, means, out, n, run: tl.constexpr, step: tl.constexpr):
    """Write the distance of one sorted neuron.

    Outputs are seen from the middle one, d = y - median. The mean is within a deviation of it, so that the difference
    of sum d^2 and (sum d)^2 / n loses no more than a bit, and one pass is enough for both sums.
    """
    neuron = ordered + tl.program_id(0).to(tl.int64) * n
    each = 1.0 / tl.cast(n, tl.float64)
    first, last = tl.load(neuron).to(tl.float64), tl.load(neuron + n - 1).to(tl.float64)
    median = tl.load(neuron + n // 2)
    middle, one = median.to(tl.float64), tl.full((), 1, tl.float64)
    reach = tl.maximum(middle - first, last - middle)
    up, down = tl.full((), UP, tl.float64), tl.full((), DOWN, tl.float64)
    unit = tl.where(reach > WIDE, down, tl.where(reach < NARROW, up, one))

    sums, squares = tl.zeros((run,), tl.float64), tl.zeros((run,), tl.float64)
    for start in range(0, n, run):
        token = start + tl.arange(0, run)
        d = (tl.load(neuron + token, mask=token < n, other=median).to(tl.float64) - middle) * unit
        sums += d
        squares += d * d
    mean = tl.sum(sums, 0) * each
    variance = tl.sum(squares, 0) * each - mean * mean
    constant = first == last
    scale = 1.0 / tl.sqrt(tl.where(constant, one, variance))

    areas = tl.zeros((step,), tl.float64)
    for start in range(0, n, step):
        token = start + tl.arange(0, step)
        there = token < n
        d = (tl.load(neuron + token, mask=there, other=median).to(tl.float64) - middle) * unit
        z = (d - mean) * scale
        area = tl.abs(z * each - tl.load(means + token, mask=there, other=0.0))
        low, high = tl.load(edges + token, mask=there, other=0.0), tl.load(edges + token + 1, mask=there, other=0.0)
        inside = (low < z) & (z < high)
        if tl.max(inside.to(tl.int32), 0) > 0:
            share = (2 * token + 1 - n).to(tl.float64) * each  # 2 Phi - 1 amid the cell
            crossed = z * (tl.erf(z * 0.7071067811865476) - share) + 0.7978845608028654 * tl.exp(-0.5 * z * z)
            crossed -= tl.load(ends + token, mask=there, other=0.0)
            crossed -= tl.load(ends + token + 1, mask=there, other=0.0)
            area = tl.where(inside, crossed, area)
        areas += tl.where(there, area, 0.0)
    tl.store(out + tl.program_id(0), tl.where(constant, 0.0, tl.sum(areas, 0)))
