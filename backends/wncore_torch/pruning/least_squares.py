"""The best weights for given masks: one positive definite system a row, many rows at once."""

import torch
from torch import Tensor

BLOCK = 2**25
"""Numbers in the systems of a block of rows: 256 MiB."""


@torch.no_grad()
def resolve(w: Tensor, h: Tensor, mask: Tensor) -> Tensor:
    """Solve for the kept weights of each row: (k, m, d), (k, d, d), (k, m, d) -> (k, m, d).

    In float64, then rounded to the dtype of w. Rows are taken in the order of how many weights they keep, so that the
    systems of a block are about as large; the smaller ones are filled up by the identity.
    """
    weights, kept = w.double(), mask.bool()
    lost = torch.where(kept, 0.0, weights)
    pull, out = lost @ h, torch.where(kept, weights, 0.0)
    expert, row = ((lost != 0).any(dim=2) & kept.any(dim=2)).nonzero(as_tuple=True)
    sizes, order = kept[expert, row].sum(dim=1).sort(descending=True, stable=True)
    expert, row, first = expert[order], row[order], 0
    while first < len(order):
        size = int(sizes[first])  # the largest of its block
        block = slice(first, first + max(1, BLOCK // size**2))
        e, i = expert[block], row[block]
        own, place = kept[e, i].sort(dim=1, descending=True, stable=True)  # kept inputs, then others to fill up
        own, place = own[:, :size], place[:, :size]
        target = torch.where(own, pull[e, i].gather(1, place), 0.0)
        move = torch.cholesky_solve(target[..., None], _factors(h, e, place, own))[..., 0]
        e, i = e[:, None], i[:, None]
        out[e, i, place] = out[e, i, place] + move
        first = block.stop
    return out.to(w.dtype)


def _factors(gram: Tensor, expert: Tensor, place: Tensor, own: Tensor) -> Tensor:
    systems = gram[expert[:, None, None], place[:, :, None], place[:, None]]
    systems *= own[:, :, None] & own[:, None]
    systems.diagonal(dim1=1, dim2=2).add_(~own)
    return torch.linalg.cholesky(systems)
