"""Sums that come out the same whoever adds: fixed pieces of tokens, added along a fixed binary tree.

Floating-point addition is not associative, so a sum is defined by its order. Here the order follows from the tokens
alone: they are cut into runs of whole sequences, each run is summed up step by step, and runs are added neighbour to
neighbour. Memory says how much is held at a time, never what is added to what; so do the owner of the activations and
the number of processes that share them out, since each may add up whole subtrees.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import iadd
from typing import Generic, TypeVar

import numpy as np

from wncore.dumps.layer import Tokens
from wncore.uncertainty import GROUPS, token_groups

Part = TypeVar("Part")

ORDER = 1
"""Of the order of adding: another number, other last bits."""
LEAST = 512
"""Tokens of a piece of a Gram matrix, at least: a matrix is added for each."""
STEP = 2**25
"""Bytes of floats that are read into one step of a piece."""
SHORTEST = 512
"""Tokens of a step, at least, however wide they are."""


@dataclass(frozen=True)
class Piece:
    """A run of neighbouring tokens."""

    rows: slice
    """Of the layer's tensors, padding included"""
    tokens: slice
    """Of the tokens that count"""

    def steps(self, rows: int) -> Iterator[slice]:
        """Cut the rows into steps of so many; the last may be shorter."""
        for first in range(self.rows.start, self.rows.stop, rows):
            yield slice(first, min(self.rows.stop, first + rows))


@lru_cache(maxsize=4)  # the layers of a block mostly have the same tokens
def cut(tokens: Tokens, least: int = 1) -> tuple[Piece, ...]:
    """Cut the tokens into the groups of the jackknife, or fewer if those would have less than `least` tokens.

    >>> keep = np.array([True, False, True, True, True])
    >>> cut(Tokens(keep, np.array([0, 1, 1, 2]), keep[:4]), least=2)
    (Piece(rows=slice(0, 4, None), tokens=slice(0, 3, None)), Piece(rows=slice(4, 5, None), tokens=slice(3, 4, None)))
    """
    groups = token_groups(tokens.sequence, max(1, min(GROUPS, tokens.count // least)))
    starts = [*np.flatnonzero(np.diff(groups, prepend=-1)).tolist(), tokens.count]
    rows = [0, *np.flatnonzero(tokens.keep)[starts[1:-1]].tolist(), len(tokens.keep)]
    return tuple(Piece(slice(*r), slice(*t)) for r, t in zip(pairwise(rows), pairwise(starts), strict=True))


def starts_of(pieces: Sequence[Piece]) -> list[int]:
    """Return the token that each piece starts at, and how many tokens there are."""
    return [piece.tokens.start for piece in pieces] + [pieces[-1].tokens.stop]


def step_of(columns: int, itemsize: int) -> int:
    """Return the rows of a step of matrices with so many columns."""
    return max(SHORTEST, STEP // (columns * itemsize))


class TreeSum(Generic[Part]):
    """Adds parts that come in order along a binary tree, neighbours first; log2 of their number are held.

    The sum of 2^k neighbours that start at a multiple of 2^k is a subtree: who has all of them may add it up elsewhere.
    `plus` may write into its first argument.

    >>> total = TreeSum(lambda a, b: f"({a}{b})")
    >>> for part in "abcde":
    ...     total.add(part)
    >>> total.result()
    '(((ab)(cd))e)'
    """

    def __init__(self, plus: Callable[[Part, Part], Part]) -> None:
        self._plus = plus
        self._held: list[tuple[int, Part]] = []

    def add(self, part: Part) -> None:
        """Take the next part."""
        size = 1
        while self._held and self._held[-1][0] == size:
            part = self._plus(self._held.pop()[1], part)
            size *= 2
        self._held.append((size, part))

    def result(self) -> Part | None:
        """Return the sum of all parts, after which there may be no other; None if there was none."""
        while len(self._held) > 1:
            (size, left), (rest, right) = self._held[-2:]
            self._held[-2:] = [(size + rest, self._plus(left, right))]
        return self._held[0][1] if self._held else None


def add_arrays(a: tuple, b: tuple) -> tuple:
    """Add arrays one by one, into the first ones where their library can."""
    return tuple(map(iadd, a, b))
