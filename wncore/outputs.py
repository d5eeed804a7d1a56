"""The outputs of a layer, tile by tile or batch by batch, in bounded memory.

They are read from the dump, or computed from its inputs and weights, as floats, without padding, and checked finite.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.dumps.header import DTYPES
from wncore.dumps.layer import Layer, Tokens
from wncore.dumps.tensor import Tensor, as_floats, is_finite
from wncore.errors import MemoryBudgetError, NonFiniteError

NARROW = 64
"""Columns that are widened to float32 at a time, at most."""
STATE = 80_000
"""Bytes of histograms that scoring keeps for each neuron of a tile."""


class _Buffer:
    """Memory for the widest tile, used again for each: two of them would break the budget."""

    def __init__(self, rows: int, splits: list[slice], dtype: np.dtype) -> None:
        self.rows = rows
        self.values = np.empty(rows * max(split.stop - split.start for split in splits), dtype)

    def of(self, split: slice) -> NDArray:
        """Return the array (rows, columns) for a split of the columns."""
        width = split.stop - split.start
        return self.values[: self.rows * width].reshape(self.rows, width)


class Outputs:
    """Reads or computes the outputs (n, m) of one layer.

    `memory` is in bytes, for all that is held at a time; `tick` is called with 0 now and then, as a sign of life.
    """

    def __init__(
        self,
        layer: Layer,
        tokens: Tokens,
        backend: Backend,
        memory: int,
        tick: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.layer, self.tokens, self.backend, self.memory = layer, tokens, backend, memory
        self.tick = tick
        parts = [layer.output] if layer.output is not None else [layer.input, layer.weight, layer.bias]
        wide = any(part is not None and part.dtype == "F64" for part in parts)
        self.dtype = "float64" if wide else "float32"
        self._itemsize = 8 if wide else 4
        self._input: NDArray | None = None

    def tiles(self) -> Iterator[tuple[slice, NDArray]]:
        """Yield all tokens of a few neurons at a time: (columns, outputs (n, t)), valid until the next is asked for.

        Raises
        ------
        NonFiniteError
            If an output that counts is NaN or infinite.
        MemoryBudgetError
            If not even one neuron fits.
        """
        return self._computed_tiles() if self.layer.output is None else self._stored_tiles(self.layer.output)

    def batches(self, columns: slice, rows: int) -> Iterator[NDArray]:
        """Yield up to `rows` tokens of the given neurons at a time, in order, padding left out."""
        for first in range(0, self.layer.rows, rows):
            part = slice(first, min(self.layer.rows, first + rows))
            if self.tokens.keep[part].any():
                yield self._batch(part, columns)

    def columns(self, columns: slice, out: NDArray | None = None) -> NDArray:
        """Return all tokens of the given neurons, (n, t)."""
        if out is None:
            out = np.empty((self.tokens.count, columns.stop - columns.start), self.dtype)
        done = 0
        for part in self.batches(columns, self._batch_rows(columns.stop - columns.start)):
            out[done : done + len(part)] = part
            done += len(part)
            self.tick(0)
        return out

    def _stored_tiles(self, output: Tensor) -> Iterator[tuple[slice, NDArray]]:
        as_is = output.itemsize == self._itemsize and self.tokens.all_kept
        column = self.layer.rows * self._itemsize
        narrow = output.columns if as_is else max(1, min(NARROW, self.memory // 8 // column))
        spare = 0 if as_is else narrow * column + self._scratch(narrow)
        splits = self._split(output.columns, output.itemsize, spare, whole=as_is)
        buffer = _Buffer(self.layer.rows, splits, DTYPES[output.dtype])
        for wide in splits:
            raw = buffer.of(wide)
            for rows in output.chunks(output.columns * output.itemsize, 2**25):
                raw[rows] = output.read(rows, wide)
                self.tick(0)
            for first in range(0, raw.shape[1], narrow):
                part = raw[:, first : first + narrow]
                part = part if self.tokens.all_kept else part[self.tokens.keep]
                output.check_finite(part)
                yield slice(wide.start + first, wide.start + first + part.shape[1]), as_floats(part)

    def _computed_tiles(self) -> Iterator[tuple[slice, NDArray]]:
        source = self.layer.input
        size = self.layer.rows * (source.columns if source is not None else 0) * self._itemsize
        spare = 0
        if size <= self.memory // 2:  # read the input once, keep it
            spare = size
            self._input = self._read_input(slice(0, self.layer.rows))
        splits = self._split(self.layer.neurons, self._itemsize, spare, whole=True)
        buffer = _Buffer(self.tokens.count, splits, np.dtype(self.dtype))
        for wide in splits:
            yield wide, self.columns(wide, buffer.of(wide))
        self._input = None

    def _split(self, columns: int, itemsize: int, spare: int, whole: bool) -> list[slice]:
        """Cut the columns into tiles that fit beside `spare` bytes; a tile that is scored whole needs room for that."""
        held, room = self.layer.rows * itemsize, self.memory - spare
        width = room // held
        if whole:
            held += min(STATE, self.memory // 4)
            width = max(room // (held + self._scratch(1)), (room - self._scratch(columns)) // held)
        if width < 1:
            need = spare + held + self._scratch(1)
            raise MemoryBudgetError(
                f"{self.layer.name}: one neuron's {self.layer.rows} outputs need {need / 2**20:.0f} MiB at least, and "
                f"{self.memory / 2**20:.0f} MiB are allowed; give more --memory, or --streaming with --pairs 0"
            )
        width = width if width < 16 else width // 16 * 16
        count = -(-columns // min(width, columns))
        bounds = [columns * i // count for i in range(count + 1)]
        return [slice(a, b) for a, b in pairwise(bounds)]

    def _scratch(self, columns: int) -> int:
        """Bytes for sorting or pairing the neurons that all threads work on at a time, 16 each."""
        at_a_time = min(columns, 16 * getattr(self.backend, "threads", 1))
        return at_a_time * self.layer.rows * 2 * self._itemsize

    def _batch_rows(self, width: int) -> int:
        source = self.layer.output or self.layer.input
        held = width * self._itemsize + (source.columns * (self._itemsize + source.itemsize) if source else 0)
        return max(1, min(self.memory // 8, 2**26) // held)

    def _batch(self, rows: slice, columns: slice) -> NDArray:
        output, weight, bias = self.layer.output, self.layer.weight, self.layer.bias
        if output is not None:
            raw = output.read(rows, columns)[self.tokens.keep[rows]]
            output.check_finite(raw)
            return as_floats(raw)
        assert weight is not None  # a layer that is scored has outputs, or input and weight
        x = (
            self._input[self._kept_before(rows.start) : self._kept_before(rows.stop)]
            if self._input is not None
            else None
        )
        x = self.backend.asarray(self._read_input(rows) if x is None else x, self.dtype)
        w = self.backend.asarray(self._floats(weight, columns)[None], self.dtype)
        b = None if bias is None else self.backend.asarray(self._floats(bias, columns)[:, 0], self.dtype)
        labels = self.backend.asarray(np.zeros(len(x), np.int64), "int64")
        y = self.backend.to_numpy(self.backend.routed_linear(x, w, b, labels))
        if not is_finite(y):
            raise NonFiniteError(
                f"{self.layer.name}: outputs computed from input and weight overflow {self.dtype}; scale the input down"
            )
        return y

    def _read_input(self, rows: slice) -> NDArray:
        source = self.layer.input
        assert source is not None
        out = np.empty((int(self.tokens.keep[rows].sum()), source.columns), self.dtype)
        done = 0
        for part in source.chunks(source.columns * (source.itemsize + self._itemsize), 2**25):
            low, high = max(part.start, rows.start), min(part.stop, rows.stop)
            if low < high:
                raw = source.read(slice(low, high))
                raw = raw if self.tokens.all_kept else raw[self.tokens.keep[low:high]]
                source.check_finite(raw)
                out[done : done + len(raw)] = as_floats(raw)
                done += len(raw)
                self.tick(0)
        return out

    def _floats(self, tensor: Tensor, rows: slice) -> NDArray:
        raw = tensor.read(rows)
        tensor.check_finite(raw)
        return as_floats(raw).astype(self.dtype, copy=False)

    def _kept_before(self, row: int) -> int:
        return row if self.tokens.all_kept else int(np.count_nonzero(self.tokens.keep[:row]))
