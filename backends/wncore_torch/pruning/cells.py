"""Pruning an exact number of the lowest scores of each cell."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wncore.pruning.cells import Cells


@dataclass(frozen=True, eq=False)
class TorchCells:
    """The cells of a matrix of m rows, with their counts on the device, too."""

    width: int
    """Columns of a cell; the last ones may be narrower."""
    by_row: bool
    """Whether rows are compared one by one."""
    counts: NDArray[np.int64]
    """(m, c), or (1, c) if rows are compared together or all lose the same."""
    zeros: Tensor
    """The counts on the device, int32."""

    @classmethod
    def of(cls, cells: Cells, m: int, device: torch.device) -> "TorchCells":
        """Take the cells of a matrix of m rows to a device: once, since N:M has millions of counts."""
        counts = cells.counts
        if (counts == counts[:1]).all():
            counts = counts[:1]
        zeros = torch.as_tensor(counts.astype(np.int32), device=device)
        return cls(cells.width, len(cells.counts) == m, counts, zeros)

    def part(self, first: int, last: int) -> "TorchCells":
        """Return the cells of the columns from `first`, where one begins, to `last`."""
        part = slice(first // self.width, -(-last // self.width))
        return TorchCells(self.width, self.by_row, self.counts[:, part], self.zeros[:, part])


def _lowest(values: Tensor, cells: TorchCells) -> Tensor:
    """Mark as many of the lowest values along the last axis as cells lose: (k, r, c, n) >= 0 -> (k, r, c, n)."""
    most, wanted = int(cells.counts.max()), cells.zeros[..., None]
    even = most == cells.counts.min()
    smallest = values.topk(max(1, most), largest=False, sorted=not even).values
    if even:
        threshold = smallest.amax(dim=-1, keepdim=True)
    else:
        threshold = smallest.take_along_dim((wanted.long() - 1).clamp(min=0)[None], dim=-1)
    below, ties = values < threshold, values == threshold
    missing = wanted - below.sum(dim=-1, keepdim=True)
    running = ties.flatten().cumsum(dim=0, dtype=torch.int32).view(ties.shape)  # one long sum: CUDA is slow at a few
    running = running - (running[..., :1] - ties[..., :1].int())
    return below | (ties & (running <= missing))


def select(scores: Tensor, cells: TorchCells) -> Tensor:
    """Prune the lowest scores of each cell, ties to the lowest index: (k, m, d) >= 0 -> mask (k, m, d), True = kept."""
    whole = scores.shape[2] // cells.width * cells.width
    parts = [(scores[:, :, :whole], cells.part(0, whole))]
    parts += [(scores[:, :, whole:], cells.part(whole, scores.shape[2]))]  # the last cells, if they are narrower
    return torch.cat([_select_whole(*part) for part in parts if part[0].shape[2]], dim=2)


def _select_whole(scores: Tensor, cells: TorchCells) -> Tensor:
    m, spans = scores.shape[1], cells.counts.shape[1]
    values = scores.unflatten(2, (spans, -1))
    if cells.by_row:
        return ~_lowest(values, cells).flatten(2)
    pruned = _lowest(values.transpose(1, 2).flatten(2)[:, None], cells)[:, 0]
    return ~pruned.unflatten(2, (m, -1)).transpose(1, 2).flatten(2)
