"""A layer's activations, opened once: what scoring, pruning and expanding are told, and all that they read.

A dump is their first owner; arrays in memory and blocks of a running model can be others. The tensors of a `Layer`
say how rows are read; everything else that a reader needs travels here: which tokens count, how many of them only
judge, who computes, within what memory, and who hears that work goes on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.dumps.layer import Layer, Tokens
from wncore.dumps.tensor import as_floats, computed_in
from wncore.errors import InputError, TooFewTokensError
from wncore.matrix import LinearLayer, Matrix
from wncore.tick import Tick, idle

CHUNK = 2**25
"""Bytes read at a time."""


@dataclass(frozen=True, eq=False)
class Activations:
    """A layer, which of its tokens count, and what reads and computes with them."""

    layer: LinearLayer
    tokens: Tokens
    """Of a layer that has only a Gram matrix: none."""
    backend: Backend
    skipped: int = 0
    """Tokens at the start of every sequence that were left out."""
    holdout: float = 0.1
    """Share of the tokens that pruning may not look at; they judge what it does. Scores are of all."""
    memory: int = 2**30
    """Bytes for all that is held at a time."""
    tick: Tick = idle
    sinks: int | None = None
    """How many of the tokens were attention sinks (`wncore.layers.sinks`); None: nobody looked."""

    @property
    def name(self) -> str:
        """The layer's."""
        return self.layer.name

    @property
    def input(self) -> Matrix:
        """The inputs (r, d), padding included.

        Raises
        ------
        InputError
            If the layer has none.
        """
        if self.layer.input is None:
            raise InputError(f"{self.name} has no input; capture it, or leave the layer out with --layer")
        return self.layer.input

    @property
    def weight(self) -> Matrix:
        """The weights (m, d).

        Raises
        ------
        InputError
            If the layer has none.
        """
        if self.layer.weight is None:
            raise InputError(f"{self.name} has no weight; add it to the dump, or leave the layer out with --layer")
        return self.layer.weight

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (m, d) of the weights."""
        return self.weight.rows, self.weight.columns

    @property
    def dtype(self) -> str:
        """The dtype that inputs are computed with."""
        return computed_in(self.layer.input)

    @property
    def calibration(self) -> int:
        """How many of the tokens pruning sees: the first ones; the last share `holdout` only judges, at least one.

        The last tokens, not random ones: neighbours in a text are alike, and would tell what they were asked. The cut
        lies where a sequence begins, unless it is nearer to the end of all tokens than to any such place.

        Raises
        ------
        InputError
            If the share is not in [0, 1).
        TooFewTokensError
            If it leaves fewer than 2 tokens to calibrate by.
        """
        if not 0 <= self.holdout < 1:
            raise InputError(f"the share of tokens to hold out lies in [0, 1); got {self.holdout}")
        tokens = self.tokens.count
        first = tokens - (round(self.holdout * tokens) or int(self.holdout > 0))
        if first < 2:
            raise TooFewTokensError(
                f"{self.name} has {tokens} tokens; with --holdout {self.holdout:g} fewer than 2 are left to calibrate "
                f"by"
            )
        return _nearest(self.tokens.starts, first, tokens - first)

    def alone(self) -> Self:
        """Leave stored outputs aside: they are computed from inputs and weights."""
        return replace(self, layer=replace(self.layer, output=None))

    def within(self, memory: int) -> Self:
        """Allow other bytes."""
        return replace(self, memory=memory)

    def telling(self, tick: Tick) -> Self:
        """Tell somebody else how the work goes on."""
        return replace(self, tick=tick)

    def read_weight(self) -> NDArray:
        """Read the weights as they are stored, (m, d).

        Raises
        ------
        NonFiniteError
            If one is NaN or infinite.
        """
        stored = self.weight.read()
        self.weight.check_finite(stored)
        return stored

    def read_input(self, rows: slice, dtype: str | None = None) -> NDArray[np.floating]:
        """Read those of the given rows (r,) that count, as floats: (kept, d).

        Raises
        ------
        NonFiniteError
            If one of them holds NaN or infinity.
        """
        source, keep = self.input, self.tokens.keep
        out = np.empty((int(keep[rows].sum()), source.columns), dtype or self.dtype)
        done = 0
        for part in source.chunks(source.columns * (source.itemsize + out.itemsize), CHUNK):
            low, high = max(part.start, rows.start), min(part.stop, rows.stop)
            if low < high:
                raw = source.read(slice(low, high))
                raw = raw if self.tokens.all_kept else raw[keep[low:high]]
                source.check_finite(raw, keep)
                out[done : done + len(raw)] = as_floats(raw)
                done += len(raw)
                self.tick(0)
        return out

    def shares_input(self, other: "Activations") -> bool:
        """Whether two layers read the same tokens of the same tensor; each may have a mask of its own."""
        return self.layer.input is not None and self.layer.input is other.layer.input and self.counts(other.tokens)

    def counts(self, tokens: Tokens) -> bool:
        """Whether those are the tokens that count."""
        return self.tokens is tokens or bool(np.array_equal(self.tokens.keep, tokens.keep))


def _nearest(places: NDArray[np.int64], place: int, reach: int) -> int:
    """Return that of some rising places which is nearest to one, the lower of two; itself if none is within `reach`."""
    found = int(places[np.argmin(np.abs(places - place))]) if len(places) else place
    return found if found >= 2 and abs(found - place) <= reach else place


def open_layer(
    layer: Layer,
    backend: Backend,
    *,
    skip_tokens: int = 0,
    holdout: float = 0.1,
    memory: int = 2**30,
    tick: Tick = idle,
) -> Activations:
    """Open a layer: read its mask, and leave out padding and the first `skip_tokens` of every sequence.

    Raises
    ------
    WncoreError
        As `Layer.check` and `Layer.tokens`.
    """
    layer.check()
    none = np.zeros(0, bool)
    tokens = layer.tokens(skip_tokens) if layer.rows else Tokens(none, none.astype(np.int64), none)
    return Activations(layer, tokens, backend, skip_tokens, holdout, memory, tick)


def open_layers(layers: Iterable[Layer], backend: Backend, **reading: Any) -> list[Activations]:
    """Open layers as `open_layer`; neighbours of which the same tokens count hold them once."""
    opened: list[Activations] = []
    for layer in layers:
        one = open_layer(layer, backend, **reading)
        if opened and opened[-1].tokens.same_as(one.tokens):
            one = replace(one, tokens=opened[-1].tokens)
        opened.append(one)
    return opened
