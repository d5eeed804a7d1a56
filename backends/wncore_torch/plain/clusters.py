"""A step of Lloyd's algorithm."""

import torch
from torch import Tensor

from wncore_torch.plain.blocks import HOST_BLOCK
from wncore_torch.precision import full_precision, widened


def lloyd(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take the steps of all starts, one after the other: (n, r), (s, k, r) -> (s, n), (s, k, r), (s, k), (s, k)."""
    labels, sums, counts, inertia = zip(*(_step(x, start) for start in centroids), strict=True)
    return torch.stack(labels), torch.stack(sums), torch.stack(counts), torch.stack(inertia)


def _step(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compare ||c||^2 - 2 x'c, seen from amid the centroids: (n, r), (k, r) -> (n,), (k, r), (k,), (k,).

    Sums are products with a row of 0 and 1 a cluster.
    """
    k, r = centroids.shape
    centres = widened(centroids)
    middle = centres.sort(dim=0).values[k // 2]
    offsets, wide, clusters = centres - middle, centroids.double(), torch.arange(k, device=x.device)[:, None]
    norms, labels = offsets.double().square().sum(1).to(centres.dtype), torch.empty_like(x[:, 0], dtype=torch.int64)
    sums, counts, inertia = torch.zeros_like(wide), torch.zeros_like(clusters[:, 0]), torch.zeros_like(wide[:, 0])
    for part, nearest in zip(*(array.split(max(1, HOST_BLOCK // max(k, r))) for array in (x, labels)), strict=True):
        with full_precision():
            nearest[:] = torch.addmm(norms, widened(part) - middle, offsets.T, alpha=-2).argmin(dim=1)
        mine, points = nearest == clusters, part.double()
        sums += mine.double() @ points
        counts += mine.sum(1)
        inertia += mine.double() @ (points - wide[nearest]).square().sum(1)
    return labels, sums, counts, inertia
