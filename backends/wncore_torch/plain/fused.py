"""The histogram of a routed product's outputs, which are never all there."""

from collections.abc import Iterator

import torch
from torch import Tensor

from wncore_torch.plain.blocks import block_size, by_label
from wncore_torch.plain.histograms import histogram
from wncore_torch.precision import product, widened


def linear_histogram(
    x: Tensor, weights: Tensor, bias: Tensor | None, labels: Tensor, edges: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Multiply a block of tokens of one expert, count its outputs, add up: as in the protocol.

    Outputs are float32 for half precision. Of the labels, k counts go to the host.
    """
    m, bins = len(edges), edges.shape[1] - 1
    counts = torch.zeros(m, bins + 2, dtype=torch.int64, device=x.device)
    sums, powers = (torch.zeros(m, width, dtype=torch.float64, device=x.device) for width in (bins + 2, 4))
    for expert, tokens in runs(x, labels, len(weights), max(1, block_size(x.device) // max(m, 1))):
        y = product(tokens, weights[expert].T)
        parts = histogram(y if bias is None else y + widened(bias), edges)
        for total, part in zip((counts, sums, powers), parts, strict=True):
            total += part
    return counts, sums, powers


def runs(x: Tensor, labels: Tensor, k: int, size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield each expert with up to `size` of its tokens, as long as there are any."""
    if k == 1:
        yield from ((0, part) for part in x.split(size) if len(part))
        return
    for expert, mine in enumerate(by_label(labels, labels.bincount(minlength=k))):
        yield from ((expert, x[part]) for part in mine.split(size) if len(part))
