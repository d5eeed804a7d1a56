"""Sums of x x' by cluster."""

from typing import Any

import torch
from torch import Tensor

from wncore_torch.plain.blocks import by_label
from wncore_torch.precision import product

CHUNK = 2**10
"""Tokens whose products are summed in the input's dtype."""


def gram(x: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the products of a thousand tokens in the input's dtype (half: float32), all else in float64.

    (n, d), (n,) -> (k, d, d), (k, d), (k,). Of the labels, k counts go to the host.
    """
    d = x.shape[1]
    grams, sums = (torch.zeros(k, *shape, dtype=torch.float64, device=x.device) for shape in ((d, d), (d,)))
    counts = torch.full((1,), len(x), dtype=torch.int64, device=x.device) if k == 1 else labels.bincount(minlength=k)
    clusters: list[Any] = [x.split(CHUNK)]  # one expert copies nothing, and asks the device nothing
    if k > 1:
        clusters = [(x[tokens] for tokens in cluster.split(CHUNK)) for cluster in by_label(labels, counts)]
    for c, chunks in enumerate(clusters):
        for chunk in chunks:
            grams[c] += product(chunk.T, chunk)
            sums[c] += chunk.sum(0, dtype=torch.float64)
    return grams, sums, counts
