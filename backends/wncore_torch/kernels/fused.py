"""The histogram of outputs right behind their product: they live in a buffer, a part of the neurons at a time."""

import torch
from torch import Tensor

from wncore_torch.kernels.histograms import State
from wncore_torch.plain.fused import linear_histogram as plain_histogram
from wncore_torch.plain.fused import runs
from wncore_torch.precision import product

HOW = "torch's products, then CUDA; more bins than fit into shared memory in plain torch"
BUFFER = 2**27
"""Outputs at a time: 512 MiB of float32."""
NEURONS = 2**12
"""Neurons at a time, where there are too many tokens for more: enough for a product to run at full speed."""


def linear_histogram(
    x: Tensor, weights: Tensor, bias: Tensor | None, labels: Tensor, edges: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Multiply and count, a run of tokens of one expert at a time: (n, d), (k, m, d), (m, b + 1) -> as `histogram`.

    Neurons go in blocks and keep their state for all tokens; to begin and to end with a neuron costs as much as a few
    thousand tokens of it.
    """
    (n, m), done = (len(x), len(edges)), []
    if not m:
        return plain_histogram(x, weights, bias, labels, edges)
    width = min(m, max(NEURONS, BUFFER // max(1, n)))
    size = max(1, BUFFER // width)
    for first in range(0, m, width):
        block = slice(first, first + width)
        shift = None if bias is None else bias[block].double().contiguous()
        state = State.of(edges[block], min(n, size))
        if state is None:
            return plain_histogram(x, weights, bias, labels, edges)
        for expert, tokens in runs(x, labels, len(weights), size):
            state.add(product(tokens, weights[expert, block].T), shift)
        done.append(state.result())
    counts, sums, powers = (torch.cat(parts) for parts in zip(*done, strict=True))
    return counts, sums, powers
