"""Blocks of neurons, so that the memory beside the arguments stays bounded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

HOST_BLOCK, DEVICE_BLOCK = 2**22, 2**26
"""Outputs in a block: 32 MiB for each float64 array of them on the CPU, 512 MiB elsewhere."""


def block_size(device: torch.device) -> int:
    """Return how many outputs a block has on a device."""
    return HOST_BLOCK if device.type == "cpu" else DEVICE_BLOCK


def by_label(labels: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
    """Return the tokens of each label in their order, given how many there are, which goes to the host."""
    return labels.argsort(stable=True).split(counts.tolist())


def by_neuron(work: Callable[..., Any], y: Tensor, *others: Tensor) -> Any:
    """Do `work` on blocks of neurons, the outputs (n, m) transposed to rows, and join its answers."""
    width, done = max(1, block_size(y.device) // len(y)), []
    for first in range(0, max(1, y.shape[1]), width):
        rows = y[:, first : first + width].T.contiguous()
        done.append(work(rows, *(other[first : first + width] for other in others)))
    if isinstance(done[0], tuple):
        return tuple(torch.cat(answers) for answers in zip(*done, strict=True))
    return torch.cat(done)
