"""The exact distance: a sort, then a sum over the cells of the Gaussian."""

import torch
from torch import Tensor

from wncore_torch.plain.blocks import by_neuron
from wncore_torch.plain.normal import density


def gaussian_distance(y: Tensor) -> Tensor:
    """Sort each neuron, then sum over the cells of the Gaussian as the definition does: (n, m) -> (m,)."""
    edges, ends, means = cells(len(y), y.device)
    return by_neuron(lambda rows: _sum_of_cells(rows.sort(dim=1).values.double(), edges, ends, means), y)


def cells(n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return `wncore.normal.quantile_cells`, worked out on a device, and the density at the edges between the two.

    Edges (n + 1,), density (n + 1,), means (n,).
    """
    lower = torch.special.ndtri(torch.arange(n // 2 + 1, dtype=torch.float64, device=device) / n)
    if n % 2 == 0:
        lower[n // 2].zero_()
    edges = torch.cat([lower, -lower[: n + 1 - len(lower)].flip(0)])
    ends = density(edges)
    return edges, ends, ends[:-1] - ends[1:]


def _sum_of_cells(z: Tensor, edges: Tensor, ends: Tensor, means: Tensor) -> Tensor:
    n = z.shape[1]
    low, high = edges[:-1], edges[1:]
    middles = 2 * torch.arange(n, dtype=torch.float64, device=z.device) + 1
    constant = z[:, :1] == z[:, -1:]
    z = z - z[:, n // 2, None]  # no digits are lost to an offset
    z = z / torch.where(constant, 1.0, z.abs().amax(1, keepdim=True))  # squares stay in range
    z = z - z.mean(1, keepdim=True)
    z = z / torch.where(constant, 1.0, z.square().mean(1, keepdim=True).sqrt())
    inside = z * (2 * torch.special.ndtr(z) - middles / n) + 2 * density(z) - ends[:-1] - ends[1:]
    areas = torch.where((low < z) & (z < high), inside, (z / n - means).abs())
    return torch.where(constant[:, 0], 0.0, areas.sum(1))
