"""Selecting the lowest scores of narrow cells: a score's rank is how many of its cell are below it."""

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


def select(scores: Tensor, cells: TorchCells) -> Tensor:
    """Prune the lowest scores of each cell, ties to the lowest index: (k, m, d) >= 0 -> mask (k, m, d), True = kept."""
    if not cells.by_row or cells.width > NARROW:
        return plain.select(scores, cells)
    scores, zeros = scores.contiguous(), cells.zeros.contiguous()
    (k, m, d), spans = scores.shape, zeros.shape[1]
    mask = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
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
