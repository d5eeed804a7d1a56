"""A panel of columns, swept one by one: the twin of `wncore_torch.kernels.sweep`."""

from typing import NamedTuple

import torch
from torch import Tensor

from wncore_torch.pruning.cells import TorchCells, select


class Choice(NamedTuple):
    """Cells of rows, each chosen when the sweep reaches it."""

    cells: TorchCells
    value: Tensor
    """(k, c): a weight's score is its square times this."""


class Grid(NamedTuple):
    """Levels that kept weights are rounded to: those of `wncore.pruning.quantisation`."""

    step: Tensor
    """(k, m)"""
    zero: Tensor
    """(k, m): the level of zero."""
    last: int

    @classmethod
    def of(cls, w: Tensor, bits: int) -> "Grid":
        """Make the grid of each row: (k, m, c)."""
        last = 2**bits - 1
        low, high = w.amin(dim=2).clamp(max=0), w.amax(dim=2).clamp(min=0)
        step = (high - low) / last
        step = torch.where(step > 0, step, 1.0)
        return cls(step, (-low / step).round(), last)

    def rounded(self, w: Tensor) -> Tensor:
        """Round a column (k, m)."""
        return (((w / self.step).round() + self.zero).clamp(0, self.last) - self.zero) * self.step


def sweep_panel(panel: Tensor, ratios: Tensor, kept: Tensor, choice: Choice | None, grid: Grid | None) -> None:
    """Prune and round the columns of a panel, in place: (k, m, c) float64, (k, c, c) float64, (k, m, c) bool.

    A column that changes by e moves those to its right by -e U_j: / U_jj, the row j of `ratios`. `kept` is read, or
    written if there is a choice. On a CPU it pays to have a column's rows side by side.
    """
    columns, keep = (part.transpose(1, 2).clone(memory_format=torch.contiguous_format) for part in (panel, kept))
    for j in range(columns.shape[1]):
        if choice and j % choice.cells.width == 0:
            now = slice(j, min(j + choice.cells.width, columns.shape[1]))
            scores = (columns[:, now] ** 2 * choice.value[:, now, None]).transpose(1, 2)
            keep[:, now] = select(scores, choice.cells.part(now.start, now.stop)).transpose(1, 2)
        old = columns[:, j]
        new = torch.where(keep[:, j], grid.rounded(old) if grid else old, 0.0)
        columns[:, j + 1 :].addcmul_(ratios[:, j, j + 1 :, None], (old - new)[:, None], value=-1)
        columns[:, j] = new
    panel.copy_(columns.transpose(1, 2))
    if choice:
        kept.copy_(keep.transpose(1, 2))
