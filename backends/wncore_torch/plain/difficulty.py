"""The mapping difficulty of every neuron, over pairs of tokens."""

import torch
from torch import Tensor

from wncore_torch.plain.blocks import by_neuron
from wncore_torch.precision import widened


def mapping_difficulty(x: Tensor, y: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Take medians from sorted differences, as torch.median is the lower of two middles: (n, m) -> (m,)."""
    pairs = len(left)
    if pairs < 2:
        return torch.zeros(y.shape[1], dtype=torch.float64, device=y.device)
    dx = torch.linalg.vector_norm(widened(x[left]) - widened(x[right]), dim=1, dtype=torch.float64)
    closeness = dx.max() / dx

    def work(rows: Tensor) -> Tensor:
        dy = (widened(rows[:, left]) - widened(rows[:, right])).abs().double()
        order = dy.sort(dim=1).values
        median = (order[:, (pairs - 1) // 2] + order[:, pairs // 2]) / 2
        defined = median > 0
        return torch.where(defined, (dy * closeness).mean(1) / torch.where(defined, median, 1.0), 0.0)

    return by_neuron(work, y)
