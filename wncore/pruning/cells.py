"""Comparison groups as cells of the weight matrix, how many weights each loses, and which.

A cell is a span of `width` columns, of one row or of all rows. Weights are compared within a cell, and each cell loses
an exact number of them, so that a layer loses floor(s m d) in all: remainders are carried from cell to cell.
"""

from dataclasses import dataclass
from math import floor
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.errors import InputError, ShapeError
from wncore.pruning.patterns import Pattern, SemiStructured, exact

Group = Literal["layer", "row", "block", "row-block"]
GROUPS: tuple[Group, ...] = get_args(Group)
BLOCK = 128
"""Columns of a block: those of the published SparseGPT."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Counts of weights to prune, by cell."""

    width: int
    """Columns of a cell; the last ones may be narrower."""
    counts: NDArray[np.int64]
    """(m, c) if rows are compared one by one, (1, c) if together; c = ceil(d / width)."""

    def span(self, c: int) -> slice:
        """Return the columns of the cells number c."""
        return slice(c * self.width, (c + 1) * self.width)


def cells_of(pattern: Pattern, group: Group, m: int, d: int, block: int = BLOCK) -> Cells:
    """Lay out the cells of a weight matrix (m, d), and share the zeros out among them.

    Row i loses floor(s_1 d + .. + s_i d) less what the rows above lost, a block of a row the same along the row. Shares
    are read as the decimals that they print as. N:M has its own cells, whatever the group.

    Raises
    ------
    ShapeError
        If there is a sparsity a neuron, but not m of them.
    InputError
        If there is a sparsity a neuron and rows are compared together, or the group is unknown.

    >>> from wncore.pruning.patterns import SemiStructured, Unstructured
    >>> cells_of(Unstructured(0.5), "row", m=3, d=5).counts.T
    array([[2, 3, 2]])
    >>> cells_of(SemiStructured(2, 4), "layer", m=1, d=6).counts
    array([[2, 1]])
    """
    if group not in GROUPS:
        raise InputError(f"there is no comparison group {group!r}; choose one of {', '.join(GROUPS)}")
    if isinstance(pattern, SemiStructured):
        lengths = np.diff([*range(0, d, pattern.of), d])
        lost = lengths - -(-pattern.kept * lengths // pattern.of)
        return Cells(pattern.of, np.tile(lost, (m, 1)))
    shares = [exact(share) for share in pattern.shares]
    if len(shares) not in (1, m):
        raise ShapeError(f"there are {len(shares)} sparsities for {m} neurons; give one, or one for each")
    width = min(block, d) if "block" in group else d
    ends = [min(end, d) for end in range(width, d + width, width)]
    if group in ("layer", "block"):
        if len(shares) > 1:
            raise InputError(f"a sparsity for each neuron needs the comparison group row or row-block, not {group}")
        return Cells(width, _steps([floor(shares[0] * m * end) for end in ends])[None])
    each = shares if len(shares) == m else shares * m
    owed, upto = 0, []
    for share in each:
        owed += share * d
        upto.append(floor(owed))
    return Cells(width, np.stack([_steps([row * end // d for end in ends]) for row in _steps(upto).tolist()]))


def _steps(upto: list[int]) -> NDArray[np.int64]:
    return np.diff(np.array([0, *upto], np.int64))


def select(scores: ArrayLike, cells: Cells) -> NDArray[np.bool_]:
    """Prune the lowest scores of each cell, ties to the lowest index: (m, d) -> mask (m, d), True = kept.

    >>> select([[3.0, 1.0, 1.0, 2.0]], Cells(4, np.array([[2]])))
    array([[ True, False, False,  True]])
    """
    values = np.asarray(scores)
    mask = np.ones(values.shape, bool)
    for c in range(cells.counts.shape[1]):
        mask[:, cells.span(c)] = select_span(values[:, cells.span(c)], cells.counts[:, c])
    return mask


def select_span(scores: NDArray, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Prune the lowest scores of one span of columns: (m, width), (m,) or (1,) -> mask (m, width)."""
    rows = scores if len(counts) == len(scores) else scores.reshape(1, -1)
    rank = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1)
    return (rank >= counts[:, None]).reshape(scores.shape)
