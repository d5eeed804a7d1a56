"""Exact greedy Optimal Brain Surgeon, all rows at once.

A row's next removal depends on no other row, so each row is pruned on its own first, and its removals are noted with
their costs. Where rows are compared one by one, that is all. Where the layer is, the definition always takes the
cheapest of the rows' next removals. A removal is taken once everything that costs less than the dearest one before it
in its row is gone; so the definition's order is that of the running maximum of the costs along each row, ties to the
lowest row, then to the order within the row.
"""

import torch
from torch import Tensor

from wncore.pruning.cells import Cells
from wncore_torch.pruning.cells import select
from wncore_torch.pruning.damping import Damped

BLOCK = 2**25
"""Numbers that a block of rows may hold: 256 MiB. A row takes d for each weight that it may lose."""


def obs(w: Tensor, damped: Damped, cells: Cells) -> Tensor:
    """Choose what to prune, one weight at a time: (k, m, d) -> mask (k, m, d). `resolve` has the weights.

    Raises
    ------
    NotImplementedError
        If rows are compared together in blocks of columns: a block that is full changes what all rows lose next.
    """
    k, m, d = w.shape
    alone, counts = len(cells.counts) == m, torch.as_tensor(cells.counts, device=w.device)
    if not alone and cells.counts.shape[1] > 1:
        raise NotImplementedError("obs compares whole rows or the layer; the group block needs the backend numpy")
    steps = min(d, int(cells.counts.sum(axis=1).max()))
    if steps == 0:
        return torch.ones_like(w, dtype=torch.bool)
    quota = (counts if alone else counts.clamp(max=d).expand(m, 1)).repeat(k, 1)
    expert = torch.arange(k, device=w.device).repeat_interleave(m)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped.h))
    size = max(1, BLOCK // (steps * d))
    rows = zip(w.flatten(0, 1).split(size), quota.split(size), expert.split(size), strict=True)
    done = [_remove(*some, inverse, ~damped.dead, cells.width, steps) for some in rows]
    turn, price = (torch.cat(parts).unflatten(0, (k, m)) for parts in zip(*done, strict=True))
    lost = counts.sum(dim=1) if alone else (~select(price, Cells(steps, cells.counts))).sum(dim=2)
    return turn >= lost[..., None]


def _remove(
    w: Tensor, quota: Tensor, expert: Tensor, inverse: Tensor, alive: Tensor, width: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Remove weights one by one: (r, d) -> when each is removed (r, d), the dearest removal so far (r, steps).

    H^-1 of a row after t removals is the H^-1 of its expert less V'V, with one row of V (t, d) for each: a Cholesky
    factorisation that pivots as it goes.
    """
    weights, left, alive = w.double(), quota.clone(), alive[expert]
    diagonal = inverse.diagonal(dim1=1, dim2=2)[expert]
    v = weights.new_empty(len(w), steps, w.shape[1])
    turn = torch.full_like(weights, steps, dtype=torch.int64)
    price = weights.new_zeros(len(w), steps + 1)
    for t in range(steps):
        may = (turn == steps) & (left > 0).repeat_interleave(width, dim=1)[:, : w.shape[1]]
        cost = torch.where(may, weights**2 / diagonal * alive, torch.inf)
        q = cost.argmin(dim=1, keepdim=True)
        lowest = cost.gather(1, q)
        taken = v[:, :t].gather(2, q[:, None].expand(-1, t, 1))
        column = inverse[expert, q[:, 0]] - (taken.mT @ v[:, :t])[:, 0]
        pivot = column.gather(1, q)
        v[:, t] = column / pivot.sqrt()
        weights = weights - weights.gather(1, q) / pivot * column
        diagonal = diagonal - v[:, t] ** 2
        open_ = lowest < torch.inf  # False in a row that has lost what it should
        turn.scatter_(1, q, torch.where(open_, t, turn.gather(1, q)))
        left.scatter_(1, q // width, left.gather(1, q // width) - open_.long())
        price[:, t + 1] = torch.maximum(price[:, t], lowest[:, 0])
    return turn, price[:, 1:]
