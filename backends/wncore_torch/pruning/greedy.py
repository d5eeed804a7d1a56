"""Exact greedy Optimal Brain Surgeon, all rows at once.

A row's next removal depends on no other row as long as all may lose weights anywhere, so each row is pruned on its own
first, and its removals are noted with their costs. Where rows are compared one by one, that is all. Else the definition
always takes the cheapest of the rows' next removals. A removal is taken once everything that costs less than the
dearest one before it in its row is gone; so the definition's order is that of the running maximum of the costs along
each row, ties to the lowest row, then to the order within the row. Once a cell has lost what it should, the order is
right no longer: what was taken till then is kept, and the rows are pruned anew from there.
"""

import torch
from torch import Tensor

from wncore_torch.pruning.cells import TorchCells
from wncore_torch.pruning.damping import Damped

BLOCK = 2**25
"""Numbers that a block of rows may hold: 256 MiB. A row takes d for each weight that it may lose."""


def obs(w: Tensor, damped: Damped, cells: TorchCells) -> Tensor:
    """Choose what to prune, one weight at a time: (k, m, d) -> mask (k, m, d). `resolve` has the weights."""
    k, m, d = w.shape
    counts = cells.zeros.long().expand(m if cells.by_row else 1, -1)
    steps = min(d, int(cells.counts.sum(axis=1).max()))
    taken = counts.new_zeros(k, m)
    turn, order = counts.new_full((k, m, d), steps), counts.new_zeros(k, m, steps)
    if cells.by_row:
        turn, _, _ = _remove(w, damped, counts.expand(k, -1, -1), cells.width, order, taken)
        return turn >= counts.sum(dim=1)[:, None]
    full = (counts == 0).expand(k, -1)
    for _ in range((cells.counts > 0).sum()):  # each time, one cell of each expert fills up
        quota = torch.where(full, 0, d)[:, None].expand(-1, m, -1)
        turn, order, price = _remove(w, damped, quota, cells.width, order, taken)
        taken, full = _merge(price, order // cells.width, counts, full)
    return turn >= taken[..., None]


def _merge(price: Tensor, cell: Tensor, counts: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
    """Take removals until a cell is full: (k, m, s), (k, m, s), (1, c), (k, c) -> how many of a row (k, m), (k, c)."""
    order = price.flatten(1).argsort(dim=1, stable=True)
    cells = torch.arange(counts.shape[1], device=counts.device)
    lost = (cell.flatten(1).gather(1, order)[..., None] == cells).cumsum(dim=1)
    fills = ((lost == counts) & ~full[:, None]).any(dim=2)
    last = fills.long().argmax(dim=1, keepdim=True)  # the first that fills one
    early = torch.arange(order.shape[1], device=order.device) <= last
    taken = torch.zeros_like(early).scatter_(1, order, early).unflatten(1, price.shape[1:]).sum(dim=2)
    return taken, lost.take_along_dim(last[..., None], dim=1)[:, 0] >= counts


def _remove(
    w: Tensor, damped: Damped, quota: Tensor, width: int, order: Tensor, taken: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Remove s weights of each row, block by block: -> when (k, m, d), which (k, m, s), the dearest so far (k, m, s).

    A cell of a row may lose its `quota` (k, m, c). The first removals, `taken` (k, m), are those of `order` (k, m, s).
    """
    k, m, d = w.shape
    size = max(1, BLOCK // (d * max(1, order.shape[2])))
    expert = torch.arange(k, device=w.device)[:, None].expand(k, m)
    blocks = zip(*(part.flatten(0, 1).split(size) for part in (expert, w, quota, order, taken)), strict=True)
    done = [_remove_block(damped, width, *block) for block in blocks]
    turn, which, price = (torch.cat(parts).unflatten(0, (k, m)) for parts in zip(*done, strict=True))
    return turn, which, price


def _remove_block(
    damped: Damped, width: int, expert: Tensor, w: Tensor, quota: Tensor, order: Tensor, taken: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Remove weights of r rows.

    H^-1 of a row after t removals is the H^-1 of its expert less V'V, with one row of V (t, d) for each: a Cholesky
    factorisation that pivots as it goes. An element of its diagonal is at least 1 / H_qq, whatever rounding says.
    """
    (r, d), steps = w.shape, order.shape[1]
    weights, left, which, alive = w.double(), quota.clone(), order.clone(), ~damped.dead[expert]
    diagonal, least = damped.inverse.diagonal(dim1=1, dim2=2)[expert], 1 / damped.h.diagonal(dim1=1, dim2=2)[expert]
    v = weights.new_empty(r, steps, d)
    turn, price = which.new_full((r, d), steps), weights.new_full((r, steps + 1), -torch.inf)
    for t in range(steps):
        may = (turn == steps) & (left > 0).repeat_interleave(width, dim=1)[:, :d]
        cost = torch.where(may, weights**2 / diagonal * alive, torch.inf)
        again = (t < taken)[:, None]
        q = torch.where(again, order[:, t, None], cost.argmin(dim=1, keepdim=True))
        lowest = torch.where(again, -torch.inf, cost.gather(1, q))
        before = v[:, :t].gather(2, q[:, None].expand(-1, t, 1))
        column = damped.inverse[expert, q[:, 0]] - (before.mT @ v[:, :t])[:, 0]
        pivot = diagonal.gather(1, q)
        v[:, t] = column / pivot.sqrt()
        weights = weights - weights.gather(1, q) / pivot * column
        diagonal = torch.maximum(diagonal - v[:, t] ** 2, least)
        goes = lowest < torch.inf  # no more in a row that has lost what it should
        turn.scatter_(1, q, torch.where(goes, t, turn.gather(1, q)))
        left.scatter_(1, q // width, left.gather(1, q // width) - goes.long())
        which[:, t], price[:, t + 1] = q[:, 0], torch.maximum(price[:, t], lowest[:, 0])
    return turn, which, price[:, 1:]
