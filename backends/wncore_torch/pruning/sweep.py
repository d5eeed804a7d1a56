"""SparseGPT for all experts and rows at once, column by column, with lazy updates."""

from collections.abc import Iterator

import torch
from torch import Tensor

from wncore.pruning.cells import Cells
from wncore_torch.pruning.cells import select_spans
from wncore_torch.pruning.damping import Damped

PANEL = 128
"""Columns that are updated at once; those to their right get their errors by one product."""


def sparsegpt(
    w: Tensor,
    damped: Damped,
    cells: Cells,
    mask: Tensor | None = None,
    bits: int | None = None,
    bits_group: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Prune from left to right, or round with a known mask: (k, m, d) -> (k, m, d) float64, mask (k, m, d)."""
    d, width = w.shape[2], cells.width
    u, pivots = damped.inverse_factor, damped.inverse_factor.diagonal(dim1=1, dim2=2)
    value = ~damped.dead / pivots**2
    columns = w.double().transpose(1, 2).clone(memory_format=torch.contiguous_format)  # a column's rows side by side
    kept = torch.ones_like(columns, dtype=torch.bool) if mask is None else mask.transpose(1, 2)
    span, grid = bits_group or d, None
    for first, last in _panels(d, width, span):
        errors = torch.empty_like(columns[:, first:last])
        for j in range(first, last):
            if mask is None and j % width == 0:
                now = cells.span(j // width)
                scores = (columns[:, now] ** 2 * value[:, now, None]).transpose(1, 2)
                kept[:, now] = select_spans(scores, cells.counts[:, j // width, None]).transpose(1, 2)
            if bits and j % span == 0:
                grid = _grid(columns[:, j : j + span], bits)
            old = columns[:, j]
            new = torch.where(kept[:, j], _quantise(old, *grid) if grid else old, 0.0)
            error = torch.div(old - new, pivots[:, j, None], out=errors[:, j - first])
            columns[:, j + 1 : last].addcmul_(u[:, j, j + 1 : last, None], error[:, None], value=-1)
            columns[:, j] = new
        columns[:, last:].baddbmm_(u[:, first:last, last:].transpose(1, 2), errors, alpha=-1)
    return columns.transpose(1, 2), kept.transpose(1, 2)


def _panels(d: int, *widths: int) -> Iterator[tuple[int, int]]:
    """Divide d columns so that a cell, or the columns of a grid, begins with a panel or fits into it.

    They are judged as a whole when the sweep reaches them, so no error to their left may be outstanding.
    """
    first = 0
    while first < d:
        last = min(first + PANEL, d)
        while last < d and any(first < (last - 1) // width * width != last - width for width in widths):
            last -= 1
        yield first, last
        first = last


def _grid(columns: Tensor, bits: int) -> tuple[Tensor, Tensor, int]:
    """`wncore.pruning.quantisation.quantisation_grid` of (k, c, m) -> step (k, m), level of zero (k, m), last level."""
    levels = 2**bits - 1
    low, high = columns.amin(dim=1).clamp(max=0), columns.amax(dim=1).clamp(min=0)
    step = (high - low) / levels
    step = torch.where(step > 0, step, 1.0)
    return step, (-low / step).round(), levels


def _quantise(w: Tensor, step: Tensor, zero: Tensor, levels: int) -> Tensor:
    return (((w / step).round() + zero).clamp(0, levels) - zero) * step
