"""Selecting the lowest scores of cells: of narrow ones by rank, of whole columns by the bits of a threshold.

In a narrow cell a score's rank is how many of its cell are below it. A cell of all rows may be a whole matrix: there
the largest score that goes is found digit by digit, from the highest, by counting the digits of the scores that agree
with it so far. Scores are not negative, so that they are in the order of their bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wncore_torch.pruning import cells as plain
from wncore_torch.pruning.cells import TorchCells

NARROW = 32
"""Cells of a row are ranked up to this width: each score is compared with all of its cell."""
TILE = 1024
"""Scores of a program."""
DIGIT = 8
"""Bits of a digit of wide cells."""
WIDE_TILE = 8192
"""Scores of a program of wide cells."""
MOST = 2**16 - 1
"""Wide cells: no grid has more in its second dimension."""


def select(scores: Tensor, cells: TorchCells) -> Tensor:
    """Prune the lowest scores of each cell, ties to the lowest index: (k, m, d) >= 0 -> mask (k, m, d), True = kept."""
    few = cells.width <= NARROW if cells.by_row else len(scores) * cells.zeros.shape[1] <= MOST
    few &= scores[0].numel() < 2**31
    if not few or scores.dtype not in (torch.float32, torch.float64):
        return plain.select(scores, cells)
    scores, zeros = scores.contiguous(), cells.zeros.contiguous()
    (k, m, d), spans = scores.shape, zeros.shape[1]
    mask = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    if not cells.by_row:
        _select_wide(scores, zeros, mask.view(torch.uint8), cells.width)
        return mask
    lanes = triton.next_power_of_2(cells.width)
    _rank[(triton.cdiv(k * m * spans, TILE // lanes),)](
        *(scores, zeros, mask.view(torch.uint8), k * m * spans, m, d, spans, spans if len(zeros) > 1 else 0),
        WIDTH=cells.width,
        LANES=lanes,
        CELLS=TILE // lanes,
    )
    return mask


@triton.jit
def _rank(
    scores,
    zeros,
    mask,
    total,
    m,
    d,
    spans,
    zeros_row,
    WIDTH: tl.constexpr,
    LANES: tl.constexpr,
    CELLS: tl.constexpr,
):
    cell = (tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS))[:, None]
    row, span, lane = cell // spans, cell % spans, tl.arange(0, LANES)[None, :]
    scores += row * d + span * WIDTH
    length = tl.where(cell < total, tl.minimum(d - span * WIDTH, WIDTH), 0)
    own = tl.load(scores + lane, mask=lane < length, other=0.0)
    rank = tl.zeros([CELLS, LANES], tl.int32)
    for i in range(WIDTH):
        other = tl.load(scores + i, mask=i < length, other=0.0)
        rank += ((i < length) & ((other < own) | ((other == own) & (i < lane)))).to(tl.int32)
    lost = tl.load(zeros + row % m * zeros_row + span, mask=cell < total, other=0)
    tl.store(mask + row * d + span * WIDTH + lane, (rank >= lost).to(tl.uint8), mask=lane < length)


def _select_wide(scores: Tensor, zeros: Tensor, mask: Tensor, width: int) -> None:
    """Mark what is kept of cells of all rows: (k, m, d), (1, c) -> mask (k, m, d) of 0 and 1."""
    (k, m, d), spans = scores.shape, zeros.shape[1]
    digits = scores.element_size() * 8 // DIGIT
    tiles = triton.cdiv(m * width, WIDE_TILE)
    counts = torch.zeros(k * spans, digits, 2**DIGIT, dtype=torch.int32, device=scores.device)
    last = torch.empty(k * spans, tiles, 2**DIGIT, dtype=torch.int32, device=scores.device)
    grid = (tiles, k * spans)
    shape = {"WIDTH": width, "TILE": WIDE_TILE, "DIGIT": DIGIT, "DIGITS": digits, "num_warps": 8}
    for place in range(digits):
        _count_digits[grid](scores, zeros, counts, last, m, d, spans, tiles, PLACE=place, **shape)
    _keep[grid](scores, zeros, counts, last, mask, m, d, spans, tiles, **shape)


@triton.jit
def _bits(scores, cell, tile, m, d, spans, WIDTH: tl.constexpr, TILE: tl.constexpr, DIGITS: tl.constexpr):
    """Load the bits of a tile of a cell, row by row: those, where they lie, and which of them there are."""
    expert, span, index = (cell // spans).to(tl.int64), cell % spans, tile * TILE + tl.arange(0, TILE)
    width = tl.minimum(d - span * WIDTH, WIDTH)
    where = expert * m * d + index
    if spans > 1:
        where = (expert * m + index // width) * d + span * WIDTH + index % width
    there = index < width * m
    values = tl.abs(tl.load(scores + where, mask=there, other=0.0))
    return values.to(tl.int32 if DIGITS == 4 else tl.int64, bitcast=True), where, there


@triton.jit
def _threshold(zeros, counts, cell, spans, PLACES: tl.constexpr, DIGIT: tl.constexpr, DIGITS: tl.constexpr):
    """Return the first digits of the largest score that goes, and how many go of those that begin like it."""
    rank = tl.load(zeros + cell % spans)
    found = tl.zeros([], tl.int32 if DIGITS == 4 else tl.int64)
    bins = tl.arange(0, 1 << DIGIT)
    for place in tl.static_range(PLACES):
        count = tl.load(counts + (cell * DIGITS + place) * (1 << DIGIT) + bins)
        below = tl.cumsum(count, 0) < rank
        found = (found << DIGIT) + tl.sum(below.to(tl.int32), 0)
        rank -= tl.sum(tl.where(below, count, 0), 0)
    return found, rank


@triton.jit
def _count_digits(
    scores,
    zeros,
    counts,
    last,
    m,
    d,
    spans,
    tiles,
    PLACE: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    DIGIT: tl.constexpr,
    DIGITS: tl.constexpr,
):
    """Count the digits at one place, of the scores of a cell whose digits before are the threshold's.

    At the last place, what each tile has is kept, too.
    """
    cell, tile = tl.program_id(1), tl.program_id(0).to(tl.int64)
    bits, _, there = _bits(scores, cell, tile, m, d, spans, WIDTH, TILE, DIGITS)
    first, _ = _threshold(zeros, counts, cell, spans, PLACE, DIGIT, DIGITS)
    if PLACE > 0:
        there &= (bits >> ((DIGITS - PLACE) * DIGIT)) == first
    digit = ((bits >> ((DIGITS - 1 - PLACE) * DIGIT)) & ((1 << DIGIT) - 1)).to(tl.int32)
    bins = tl.arange(0, 1 << DIGIT)
    found = tl.histogram(tl.where(there, digit, 0), 1 << DIGIT)  # older Tritons know no mask: the rest is taken off
    found -= tl.where(bins == 0, tl.sum((~there).to(tl.int32), 0), 0)
    if PLACE == DIGITS - 1:
        tl.store(last + (cell * tiles + tile) * (1 << DIGIT) + bins, found)
    tl.atomic_add(counts + (cell * DIGITS + PLACE) * (1 << DIGIT) + bins, found, mask=found > 0)


@triton.jit
def _keep(
    scores,
    zeros,
    counts,
    last,
    mask,
    m,
    d,
    spans,
    tiles,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    DIGIT: tl.constexpr,
    DIGITS: tl.constexpr,
):
    """Keep what is above the threshold, and of those that equal it the last ones."""
    cell, tile = tl.program_id(1), tl.program_id(0).to(tl.int64)
    bits, where, there = _bits(scores, cell, tile, m, d, spans, WIDTH, TILE, DIGITS)
    limit, missing = _threshold(zeros, counts, cell, spans, DIGITS, DIGIT, DIGITS)
    none = tl.load(zeros + cell % spans) == 0
    digit = (limit & ((1 << DIGIT) - 1)).to(tl.int32)
    ties = tl.load(counts + (cell * DIGITS + DIGITS - 1) * (1 << DIGIT) + digit)
    tied = (bits == limit) & there
    before = 0
    if ties > missing:  # some stay: the ties of the tiles before this one are added up
        for first in range(0, tile, 1024):
            others = first + tl.arange(0, 1024)
            count = tl.load(last + (cell * tiles + others) * (1 << DIGIT) + digit, mask=others < tile, other=0)
            before += tl.sum(count, 0)
    lost = (bits < limit) | (tied & (tl.cumsum(tied.to(tl.int32), 0) + before <= missing))
    tl.store(mask + where, (none | ~lost).to(tl.uint8), mask=there)
