"""SparseGPT, in blocks of columns: a compiled sweep within a block, one matrix product between blocks.

With R = U^-1, the changes D = W - W' of the columns done so far say what the next block b becomes before the sweep
reaches it: W_b + D R_:b R_bb^-1. The published form needs U_:b for that, so the whole inverse.
"""

from dataclasses import dataclass
from functools import partial
from math import lcm

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wncore.fast.pruning.columns import STEP, sweep
from wncore.fast.pruning.factor import upper_inverse
from wncore.fast.pruning.selection import NARROW, select, select_span
from wncore.fast.tiles import Each, tiles
from wncore.normal import Float
from wncore.pruning.cells import Cells
from wncore.pruning.quantisation import quantisation_grid

BLOCK = 128
"""Columns of a block, or about as many: neither cells nor grids straddle two blocks."""


@dataclass(frozen=True, eq=False)
class _Sweep:
    """A matrix on its way: what the sweep needs, and what it leaves behind."""

    w: NDArray
    r: Float
    value: Float
    counts: NDArray[np.int64]
    width: int
    """Columns of the cells that are selected on the way; 0: the mask is known."""
    compiled: bool
    """Whether they are selected in the compiled sweep, or all neurons stop for it."""
    bits: int
    span: int
    """Columns that share a grid which is laid on the way; 0: `grids` hold from the start."""
    grids: Float
    kept: NDArray[np.bool_]
    out: NDArray
    moved: NDArray
    """By how much the columns done have changed, in the dtype of the products between blocks."""

    @property
    def block(self) -> int:
        """Columns of a block: about `BLOCK`, so that neither cells nor grids straddle two."""
        size = lcm(self.width or 1, self.span or 1)
        return size * max(1, BLOCK // size)


def known_mask(w: NDArray, r: Float, dead: NDArray[np.bool_], cells: Cells, each: Each) -> NDArray[np.bool_]:
    """Return the mask of cells as wide as the matrix, which a sweep selects before its first column."""
    return select(np.square(w, dtype=np.float64) * _value(r, dead), cells, each)


def _value(r: Float, dead: NDArray[np.bool_]) -> Float:
    """Return what a weight's square is worth: 1 / U_jj^2, and nothing if its input is dead."""
    return np.where(dead, 0.0, np.square(r.diagonal()))


def sparsegpt(
    w: NDArray,
    r: Float,
    dead: NDArray[np.bool_],
    cells: Cells,
    each: Each,
    dtype: DTypeLike,
    mask: NDArray[np.bool_] | None = None,
    bits: int | None = None,
    bits_group: int | None = None,
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Sweep as `wncore.pruning.sweep.sparsegpt` does: (m, d), R (d, d), (d,) -> (m, d), mask.

    Weights keep their dtype; `dtype` is that of the products between blocks. With `mask`, nothing is selected.
    """
    m, d = w.shape
    if mask is None and cells.width >= d:
        mask = known_mask(w, r, dead, cells, each)
    state = _Sweep(
        w,
        r,
        value=_value(r, dead),
        counts=cells.counts,
        width=cells.width if mask is None else 0,
        compiled=cells.width < NARROW and len(cells.counts) == m,
        bits=bits or 0,
        span=bits_group if bits and bits_group and bits_group < d else 0,
        grids=np.stack(quantisation_grid(w, bits), axis=1) if bits else np.empty((m, 2)),
        kept=np.ones((m, d), np.bool_) if mask is None else mask.copy(),
        out=np.empty_like(w),
        moved=np.empty((m, d), dtype),
    )
    for start in range(0, d, state.block):
        _sweep_block(state, slice(start, min(d, start + state.block)), each)
    return state.out, state.kept


def _sweep_block(s: _Sweep, block: slice, each: Each) -> None:
    m, n = len(s.w), block.stop - block.start
    u = np.zeros((n + STEP, n))
    u[:n] = upper_inverse(s.r[block, block])
    effect = np.empty((block.start, n), s.moved.dtype)
    now, kept, value = np.empty((m, n)), np.ascontiguousarray(s.kept[:, block]), s.value[block]
    cells = slice(block.start // s.width, -(-block.stop // s.width)) if s.width else slice(0, 0)
    counts = np.ascontiguousarray(s.counts[:, cells].T)

    def weigh(rows: slice) -> None:
        effect[rows] = s.r[rows, block] @ u[:n]

    def catch_up(rows: slice) -> None:
        now[rows] = s.w[rows, block] + s.moved[rows, : block.start] @ effect

    def sweep_over(rows: slice, first: int, last: int) -> None:
        width, quotas = (s.width, np.ascontiguousarray(counts[:, rows])) if s.compiled else (0, counts)
        sweep(now[rows], kept[rows], u, first, last, value, width, quotas, s.bits, s.span, s.grids[rows])

    def settle(rows: slice) -> None:
        s.out[rows, block], s.kept[rows, block] = now[rows], kept[rows]
        s.moved[rows, block] = s.w[rows, block] - now[rows]

    def all_at_once(rows: slice) -> None:
        catch_up(rows)
        sweep_over(rows, 0, n)
        settle(rows)

    each(weigh, tiles(block.start))
    if s.compiled or not s.width:
        each(all_at_once, tiles(m))
        return
    each(catch_up, tiles(m))
    for c, first in enumerate(range(0, n, s.width)):
        last = min(n, first + s.width)
        scores = np.square(now[:, first:last]) * value[first:last]
        kept[:, first:last] = select_span(scores, counts[c])
        each(partial(sweep_over, first=first, last=last), tiles(m))
    each(settle, tiles(m))
