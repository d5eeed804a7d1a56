"""One linear layer of a dump: its tensors, and which of its tokens count."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wncore.dumps.axes import many, sequence_tokens
from wncore.dumps.header import Entry, Header
from wncore.dumps.tensor import Tensor
from wncore.errors import DumpError, InputError, TooFewTokensError
from wncore.matrix import LinearLayer


@dataclass(frozen=True, eq=False)
class Tokens:
    """Which rows of a layer's tensors count, n of r, and how the n that do form sequences."""

    keep: NDArray[np.bool_]
    """(r,)"""
    sequence: NDArray[np.int64]
    """(n,) number of the sequence that each belongs to; rising. Every token its own if the length is unknown."""
    first: NDArray[np.bool_]
    """(n,) the first token of its sequence that was not padding; none if the length is unknown."""

    @property
    def count(self) -> int:
        """The number n of tokens that count."""
        return len(self.sequence)

    @property
    def all_kept(self) -> bool:
        """Whether every row counts."""
        return len(self.sequence) == len(self.keep)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The tokens, counted among those that count, at which a sequence begins, but for the first of all."""
        return np.flatnonzero(np.diff(self.sequence)) + 1

    def same_as(self, other: "Tokens") -> bool:
        """Whether the same rows count, in the same sequences."""
        mine, others = ((each.keep, each.sequence, each.first) for each in (self, other))
        return all(map(np.array_equal, mine, others))


def choose_tokens(keep: NDArray[np.bool_], sequence: NDArray[np.int64] | None, skip: int = 0) -> Tokens:
    """Leave out the first `skip` of the tokens of each sequence that are kept.

    `keep` and `sequence` (r,) are of all rows; sequences have rising numbers, None: nobody knows of any.

    >>> keep, sequence = np.array([True, True, False, True, True]), np.array([0, 0, 1, 1, 1])
    >>> choose_tokens(keep, sequence, skip=1).keep
    array([False,  True, False, False,  True])
    """
    if sequence is None:
        count = int(keep.sum())
        return Tokens(keep, np.arange(count), np.zeros(count, bool))
    seen = np.cumsum(keep)
    starts = np.flatnonzero(np.diff(sequence, prepend=-1))
    rank = seen - 1 - np.repeat(seen[starts] - keep[starts], np.diff(starts, append=len(sequence)))
    keep = keep & (rank >= skip)
    return Tokens(keep, sequence[keep], rank[keep] == 0)


def demand_two(name: str, tokens: Tokens) -> None:
    """Raise `TooFewTokensError` if fewer than 2 tokens of a layer count."""
    if tokens.count < 2:
        raise TooFewTokensError(
            f"{name} has {tokens.count} tokens that count, of {len(tokens.keep)}; at least 2 are needed"
        )


@dataclass(frozen=True)
class Layer(LinearLayer):
    """What a dump holds of a linear layer."""

    input: Tensor | None = None
    output: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    gram: Tensor | None = None
    mask: Tensor | None = None
    """(r, 1), 1 where a token counts"""
    sequence_length: int | None = None
    """As metadata or the user state it; the axes may tell it, too."""
    fault: str | None = None
    """Why nothing can be computed from its tensors: they do not fit together, say."""
    empty: str | None = None
    """Which of its tensors holds nothing, in words."""

    @property
    def teller(self) -> Tensor | None:
        """The tensor that tells where sequences begin: the output, or else the input, as the stated length cuts it.

        Where that does not tell, the input does, or else the mask, if its axes are of batch and position. None if the
        layer has no tokens.
        """
        source = self.output or self.input
        if source is None or None not in self._lengths_of(source):
            return source
        for other in filter(None, (self.input, self.mask)):
            if None not in self._lengths_of(other) and any(len(many(entry)) > 1 for entry in other.entries):
                return other
        return source

    @property
    def lengths(self) -> list[int | None]:
        """The tokens of a sequence in each piece of the `teller`; None where they are unknown."""
        return self._lengths_of(self.teller) if self.teller is not None else []

    def _lengths_of(self, tensor: Tensor) -> list[int | None]:
        return sequence_tokens(tensor.entries, self.sequence_length)

    def check(self) -> None:
        """Raise if nothing can be computed from the layer.

        Raises
        ------
        DumpError
            If its tensors do not fit together.
        TooFewTokensError
            If one of them is empty.
        """
        if self.fault is not None:
            raise DumpError(self.fault)
        if self.empty is not None:
            raise TooFewTokensError(self.empty)

    def tokens(self, skip: int = 0) -> Tokens:
        """Say which tokens count when padding and the first `skip` tokens of every sequence are left out.

        Raises
        ------
        InputError
            If `skip` is negative, or positive while the sequence length is unknown.
        TooFewTokensError
            If fewer than 2 tokens are left.
        DumpError
            If the mask holds other values than 0 and 1.
        WncoreError
            As `check`.
        """
        self.check()
        if skip < 0:
            raise InputError(f"the number of tokens to skip cannot be negative; got {skip}")
        keep = np.ones(self.rows, bool) if self.mask is None else self._read_mask(self.mask)
        sequence = self._sequences()
        if sequence is None and skip:
            raise InputError(
                f"{self.name}: --skip-tokens needs the length of a sequence, and the dump does not name one; "
                f"set wncore.sequence_length in its metadata, or give --length{self._hint()}"
            )
        chosen = choose_tokens(keep, sequence, skip)
        demand_two(self.name, chosen)
        return chosen

    def _read_mask(self, mask: Tensor) -> NDArray[np.bool_]:
        values = mask.read()[:, 0].view(np.uint8)
        if values.size and values.max() > 1:
            raise DumpError(f"tokens.mask holds {int(values.max())}; only 0 (padding) and 1 (counts) are known")
        return values.astype(bool)

    def _sequences(self) -> NDArray[np.int64] | None:
        teller = self.teller
        numbers: list[NDArray[np.int64]] = []
        count = 0
        for entry, length in zip(teller.entries if teller is not None else (), self.lengths, strict=True):
            if not length:
                return None
            numbers.append(count + np.arange(entry.rows) // length)  # every piece starts a sequence
            count = int(numbers[-1][-1]) + 1
        return np.concatenate(numbers) if numbers else None

    def _hint(self) -> str:
        """Name the axes that do not tell the length that is asked for."""
        source = self.output or self.input
        shape = source.pieces[0][1].shape if source is not None else ()
        return f"; its axes are {shape}" if len(shape) > 2 else ""


def as_column(header: Header, entry: Entry) -> tuple[Header, Entry]:
    """Make one column of a vector or a mask of any shape."""
    return header, replace(entry, channels=0)
