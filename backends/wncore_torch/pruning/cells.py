"""Pruning an exact number of the lowest scores of each cell."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wncore.pruning.cells import Cells


def select(scores: Tensor, cells: Cells) -> Tensor:
    """Prune the lowest scores of each cell, ties to the lowest index: (k, m, d) >= 0 -> mask (k, m, d), True = kept."""
    whole = scores.shape[2] // cells.width
    parts = [(scores[:, :, : whole * cells.width], cells.counts[:, :whole])]
    parts += [(scores[:, :, whole * cells.width :], cells.counts[:, whole:])]  # the last cells, if they are narrower
    return torch.cat([select_spans(*part) for part in parts if part[0].shape[2]], dim=2)


def select_spans(scores: Tensor, counts: NDArray[np.int64]) -> Tensor:
    """Prune c spans of columns of the same width: (k, m, c width), (m, c) or (1, c) -> mask (k, m, c width)."""
    m, spans = scores.shape[1], counts.shape[1]
    values = scores.unflatten(2, (spans, -1))
    if len(counts) == m:
        return ~_lowest(values, counts).flatten(2)
    pruned = _lowest(values.transpose(1, 2).flatten(2), counts[0])
    return ~pruned.unflatten(2, (m, -1)).transpose(1, 2).flatten(2)


def _lowest(values: Tensor, counts: NDArray[np.int64]) -> Tensor:
    """Mark so many of the lowest values along the last axis: below a threshold all, at it the first ones."""
    wanted = torch.as_tensor(counts, device=values.device)[..., None]
    even = counts.min() == counts.max()
    smallest = values.topk(max(1, int(counts.max())), largest=False, sorted=not even).values
    if even:
        threshold = smallest.amax(dim=-1, keepdim=True)
    else:
        threshold = smallest.take_along_dim((wanted - 1).clamp(min=0)[None], dim=-1)
    below, ties = values < threshold, values == threshold
    missing = wanted - below.sum(dim=-1, keepdim=True)
    return below | (ties & (ties.cumsum(dim=-1, dtype=torch.int32) <= missing))
