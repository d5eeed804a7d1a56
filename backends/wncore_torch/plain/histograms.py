"""Histograms of outputs by sorting."""

import torch
from torch import Tensor

from wncore_torch.plain.blocks import by_neuron


def histogram(y: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort each neuron, find the edges among its outputs, sum run by run: (n, m), (m, b + 1) -> as in the protocol."""
    return by_neuron(_count, y, edges)


def histogram_runs(y: Tensor, edges: Tensor, starts: Tensor, factor: int) -> tuple[Tensor, ...]:
    """Count all, and once more run by run: (n, m), (m, b + 1), (p + 1,) -> as in the protocol."""
    coarse = edges[:, ::factor].contiguous()
    parts = zip(*(histogram(run, coarse) for run in y.split(starts.diff().tolist())), strict=True)
    return *histogram(y, edges), *(torch.stack(part) for part in parts)


def _count(rows: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, bins = rows.shape[1], edges.shape[1] - 1
    rows, edges = rows.sort(dim=1).values.double(), edges.contiguous()
    place = torch.searchsorted(rows, edges, right=True)  # how many outputs are <= the edge
    counts = torch.diff(place, dim=1, prepend=place[:, :1] * 0, append=place[:, :1] * 0 + n)
    left = torch.cat([edges[:, :1], edges], dim=1)
    lengths = counts.flatten()
    heights = rows.flatten() - left.flatten().repeat_interleave(lengths, output_size=rows.numel())
    sums = torch.segment_reduce(heights, "sum", lengths=lengths, initial=0.0, unsafe=True)
    t = (rows - edges[:, (bins + 1) // 2, None]) / (edges[:, -1:] - edges[:, :1])
    powers = torch.stack([t.sum(1), (t**2).sum(1), (t**3).sum(1), (t**4).sum(1)], dim=1)
    return counts, sums.reshape(counts.shape), powers
