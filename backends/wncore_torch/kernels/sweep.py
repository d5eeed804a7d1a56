"""A panel of SparseGPT's sweep in one kernel: rows in registers, columns one after another."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wncore_torch.pruning.panels import Choice, Grid

ROWS, WARPS = 4, 1
"""Rows of a program, and its warps: sums along a row then stay within a warp."""


def sweep_panel(panel: Tensor, ratios: Tensor, kept: Tensor, choice: Choice | None, grid: Grid | None) -> None:
    """Prune and round the columns of a panel, in place; see `wncore_torch.pruning.panels.sweep_panel`."""
    k, m, c = panel.shape
    ratios = ratios.contiguous()  # triangular solves leave columns side by side
    unused = ratios  # a pointer that is never read
    zeros, value = (choice.cells.zeros, choice.value.contiguous()) if choice else (unused, unused)
    step, zero = (grid.step.contiguous(), grid.zero.contiguous()) if grid else (unused, unused)
    by_row = zeros.stride(0) if choice and len(zeros) > 1 else 0
    columns = max(16, triton.next_power_of_2(c))
    _sweep[(k * triton.cdiv(m, ROWS),)](
        *(panel, ratios, kept.view(torch.uint8), zeros, value, step, zero),
        *(m, c, grid.last if grid else 0),
        *(*panel.stride()[:2], *kept.stride()[:2], *ratios.stride()[:2], by_row, value.stride(0), step.stride(0)),
        CHOOSE=choice is not None,
        ROUND=grid is not None,
        ROWS=ROWS,
        COLUMNS=columns,
        WIDTH=choice.cells.width if choice else columns,
        num_warps=WARPS,
    )


@triton.jit(do_not_specialize=["m", "c", "last_level"])
def _sweep(
    panel,
    ratios,
    kept,
    zeros,
    value,
    step,
    zero,
    m,
    c,
    last_level,
    panel_expert,
    panel_row,
    kept_expert,
    kept_row,
    ratio_expert,
    ratio_row,
    zeros_row,
    value_expert,
    step_expert,
    CHOOSE: tl.constexpr,
    ROUND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    blocks = tl.cdiv(m, ROWS)
    expert = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    real = row < m
    inside = real[:, None] & (column < c)
    panel += expert * panel_expert + row[:, None].to(tl.int64) * panel_row + column
    kept += expert * kept_expert + row[:, None].to(tl.int64) * kept_row + column
    ratios += expert * ratio_expert
    w = tl.load(panel, mask=inside, other=0.0)
    if CHOOSE:
        worth = tl.load(value + expert * value_expert + column, mask=column < c, other=0.0)
    if ROUND:
        steps = tl.load(step + expert * step_expert + row, mask=real, other=1.0)
        level_of_zero = tl.load(zero + expert * step_expert + row, mask=real, other=0.0)
    for first in range(0, COLUMNS, WIDTH):  # what is beyond the panel's columns is zero, and stays so
        if CHOOSE:
            lost = tl.load(zeros + row.to(tl.int64) * zeros_row + first // WIDTH, mask=real & (first < c), other=0)
            scores = w * w * worth
            rank = tl.zeros([ROWS, COLUMNS], tl.int32)
            for i in range(first, first + WIDTH):
                score = tl.sum(tl.where(column == i, scores, 0.0), axis=1)[:, None]
                rank += ((i < c) & ((score < scores) | ((score == scores) & (i < column)))).to(tl.int32)
            gone = rank < lost[:, None]
            here = inside & (column >= first) & (column < first + WIDTH)
            tl.store(kept, tl.where(gone, 0, 1).to(tl.uint8), mask=here)
        else:
            gone = tl.load(kept, mask=inside, other=1) == 0
        for j in range(first, first + WIDTH):
            ratio = tl.load(ratios + j * ratio_row + column, mask=(column > j) & (column < c), other=0.0)
            now = column == j
            if ROUND:
                old = tl.sum(tl.where(now, w, 0.0), axis=1)
                new = (_clamp(_round(old / steps) + level_of_zero, last_level) - level_of_zero) * steps
                new = tl.where(tl.sum(tl.where(now & gone, 1, 0), axis=1) > 0, 0.0, new)
                w = tl.where(now, new[:, None], w)
                error = old - new
            else:
                error = tl.sum(tl.where(now & gone, w, 0.0), axis=1)
                w = tl.where(now & gone, 0.0, w)
            w -= error[:, None] * ratio
    tl.store(panel, w, mask=inside)


@triton.jit
def _round(x):
    """Round half to even, as float64 does at 1.5 * 2^52, where its numbers are the integers."""
    return (x + 6755399441055744.0) - 6755399441055744.0


@triton.jit
def _clamp(x, last):
    return tl.minimum(tl.maximum(x, 0.0), last.to(tl.float64))
