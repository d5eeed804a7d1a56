"""SparseGPT for all experts and rows at once, panel by panel of columns, without an inverse of H.

H = RR' with R upper triangular, so U = R^-1 has H^-1 = U'U. Once the columns left of a panel b have changed by
D = W - W', a sweep has moved those of the panel to W_b + D R_:b U_bb, with U_bb = (R_bb)^-1: a product with R, and the
inverse of one small block. Within the panel columns move one another by U_bb.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wncore_torch.pruning.cells import TorchCells
from wncore_torch.pruning.damping import Damped
from wncore_torch.pruning.panels import Choice, Grid
from wncore_torch.pruning.steps import Steps

PANEL = 128
"""Columns of a panel."""
STRIP = 512
"""Columns whose products with all to their left are taken at once: those of a panel would not fill a GPU."""


def sparsegpt(
    w: Tensor,
    damped: Damped,
    cells: TorchCells,
    steps: Steps,
    mask: Tensor | None = None,
    bits: int | None = None,
    bits_group: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Prune from left to right, or round with a known mask: (k, m, d) -> (k, m, d) float64, mask (k, m, d).

    Cells of a row that fit into panels are chosen inside of them; others beforehand, where a panel begins with them.
    """
    d, width, span = w.shape[2], cells.width, bits_group or w.shape[2]
    inside = mask is None and cells.by_row and width <= PANEL and (not bits or span >= d or span % width == 0)
    before = mask is None and not inside
    widest = PANEL // width * width if inside else PANEL
    panels = _panels(d, widest, [span] * bool(bits) + [width] * before)
    kept = torch.ones(w.shape, dtype=torch.bool, device=w.device) if mask is None else mask.contiguous()
    value = damped.upper.diagonal(dim1=1, dim2=2) ** 2 * ~damped.dead
    choice, grid, sweep = None, None, _Sweep(w, damped.upper, panels)
    for n, (first, last) in enumerate(panels):
        chosen = _end(first, width, d) if before else first
        gridded = _end(first, span, d) if bits else first
        now = sweep.reached(n, max(last, chosen, gridded))
        if chosen > first:
            scores = now[:, :, : chosen - first] ** 2 * value[:, None, first:chosen]
            kept[:, :, first:chosen] = steps.select(scores, cells.part(first, chosen))
        if bits and gridded > first:
            grid = Grid.of(now[:, :, : gridded - first], bits)
        if inside:
            choice = Choice(cells.part(first, last), value[:, first:last])
        panel = sweep.swept[:, :, first:last].copy_(now[:, :, : last - first])
        steps.sweep_panel(panel, sweep.ratios(n), kept[:, :, first:last], choice, grid)
        torch.sub(w[:, :, first:last], panel, out=sweep.lost[:, :, first:last])
    return sweep.swept, kept


def _panels(d: int, widest: int, widths: Sequence[int]) -> list[tuple[int, int]]:
    """Divide d columns so that panels begin at all multiples of the widths.

    Cells, and the columns of a grid, are judged as a whole when the sweep reaches them.
    """

    def pairs() -> Iterator[tuple[int, int]]:
        first = 0
        while first < d:
            last = min([first + widest, d, *(first // width * width + width for width in widths)])
            yield first, last
            first = last

    return list(pairs())


def _end(first: int, width: int, d: int) -> int:
    """Return where the cell that begins here ends; here, if none begins."""
    return first if first % width else min(first + width, d)


class _Sweep:
    """What a sweep has left of the weights, and what it makes of those to come."""

    def __init__(self, w: Tensor, upper: Tensor, panels: list[tuple[int, int]]) -> None:
        self.w, self.upper, self.panels = w, upper, panels
        self.swept = torch.empty(w.shape, dtype=torch.float64, device=w.device)
        self.lost = torch.empty_like(self.swept)
        self.inverses = _inverse_blocks(upper, panels)
        self.strip, self.pull = slice(0, 0), self.lost[:, :, :0]

    def ratios(self, n: int) -> Tensor:
        """Return U_ij / U_ii within a panel: (k, c, c)."""
        u = self._inverse(n)
        return u / u.diagonal(dim1=1, dim2=2)[..., None]

    def reached(self, n: int, end: int) -> Tensor:
        """Return the weights from a panel to `end`, as they are when the sweep reaches it: (k, m, c) float64."""
        first, last = self.panels[n]
        if first == 0:
            return self.w[:, :, :end].double()
        if end > self.strip.stop:
            self.strip = slice(first, min(max(end, first + STRIP), self.w.shape[2]))
            self.pull = self.lost[:, :, :first] @ self.upper[:, :first, self.strip]
        done = slice(self.strip.start, first)
        pull = self.pull[:, :, first - done.start : end - done.start]
        if first > done.start:
            pull = torch.baddbmm(pull, self.lost[:, :, done], self.upper[:, done, first:end])
        w = self.w[:, :, first:end].double()
        if end == last:
            return torch.baddbmm(w, pull, self._inverse(n))
        block = self.upper[:, first:end, first:end]
        return w + torch.linalg.solve_triangular(block, pull, upper=True, left=False)

    def _inverse(self, n: int) -> Tensor:
        first, last = self.panels[n]
        return self.inverses[:, n, : last - first, : last - first]


def _inverse_blocks(upper: Tensor, panels: list[tuple[int, int]]) -> Tensor:
    """Invert the diagonal blocks of R, filled up by the identity: (k, d, d) -> (k, number of panels, c, c)."""
    widest = max(last - first for first, last in panels)
    eye = torch.eye(widest, dtype=upper.dtype, device=upper.device)
    blocks = eye.repeat(len(upper), len(panels), 1, 1)
    for n, (first, last) in enumerate(panels):
        blocks[:, n, : last - first, : last - first] = upper[:, first:last, first:last]
    return torch.linalg.solve_triangular(blocks, eye.expand_as(blocks), upper=True)
