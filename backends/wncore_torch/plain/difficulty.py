"""The mapping difficulty of every neuron, over pairs of tokens."""

import torch
from torch import Tensor

from wncore_torch.plain.blocks import block_size
from wncore_torch.precision import widened


def mapping_difficulty(x: Tensor, y: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Select the two middles of the differences, as torch.median is the lower of them: (n, m) -> (m,)."""
    pairs = len(left)
    if pairs < 2:
        return torch.zeros(y.shape[1], dtype=torch.float64, device=y.device)
    dx = torch.linalg.vector_norm(widened(x[left]) - widened(x[right]), dim=1, dtype=torch.float64)
    closeness = dx.max() / dx

    def work(chosen: Tensor) -> Tensor:
        gaps = (widened(chosen[:, :pairs]) - widened(chosen[:, pairs:])).abs()
        low = gaps.kthvalue((pairs + 1) // 2, dim=1).values.double()
        high = low if pairs % 2 else gaps.kthvalue(pairs // 2 + 1, dim=1).values.double()
        dy, median = gaps.double(), (low + high) / 2
        defined = median > 0
        return torch.where(defined, (dy * closeness).mean(1) / torch.where(defined, median, 1.0), 0.0)

    tokens, width = torch.cat([left, right]), max(1, block_size(y.device) // (2 * pairs))
    return torch.cat([work(part[tokens].T.contiguous()) for part in y.split(width, dim=1)])
