"""The outputs of a layer, tile by tile or batch by batch, in bounded memory.

They are read from their owner, or computed from its inputs and weights, as floats, without padding, and checked finite.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wncore.accumulator import STATE
from wncore.backend import Array
from wncore.dumps.header import DTYPES
from wncore.dumps.tensor import as_floats, computed_in, is_finite
from wncore.errors import MemoryBudgetError, NonFiniteError
from wncore.layers.activations import Activations
from wncore.matrix import Matrix

NARROW = 64
"""Columns that are widened to float32 at a time, at most."""


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

    `weights` (m, d) take the place of the layer's own, and of outputs that are stored: what would it give with them?
    So do experts (k, m, d), with `labels` (n,) that say which of them each token that counts goes to.
    """

    def __init__(
        self,
        activations: Activations,
        weights: NDArray | None = None,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        self.activations = activations if weights is None else activations.alone()
        layer, tokens = self.activations.layer, activations.tokens
        self.layer, self.tokens, self.backend, self.memory = layer, tokens, activations.backend, activations.memory
        self.weights = weights[None] if weights is not None and weights.ndim == 2 else weights
        self.labels = np.zeros(tokens.count, np.int64) if labels is None else labels
        parts = [layer.output] if layer.output is not None else [layer.input, layer.weight, layer.bias]
        self.dtype = computed_in(*parts)
        self._itemsize = np.dtype(self.dtype).itemsize
        self._input: NDArray | None = None
        self._held: tuple[slice, Array, Array | None] | None = None

    def tiles(self) -> Iterator[tuple[slice, Array]]:
        """Yield all tokens of a few neurons at a time: (columns, outputs (n, t)), valid until the next is asked for.

        They are NumPy arrays, but those of outputs on a device, which stay there.

        Raises
        ------
        NonFiniteError
            If an output that counts is NaN or infinite.
        MemoryBudgetError
            If not even one neuron fits.
        """
        output = self.layer.output
        if output is None:
            return self._computed_tiles()
        return self._resident_tiles(output) if output.resident else self._stored_tiles(output)

    def batches(self, columns: slice, rows: int) -> Iterator[NDArray]:
        """Yield up to `rows` tokens of the given neurons at a time, in order, padding left out."""
        for first in range(0, self.layer.rows, rows):
            part = slice(first, min(self.layer.rows, first + rows))
            if self.tokens.keep[part].any():
                yield self.batch(part, columns)

    def of(self, columns: slice, out: NDArray | None = None) -> NDArray:
        """Return all tokens of the given neurons, (n, t)."""
        if out is None:
            out = np.empty((self.tokens.count, columns.stop - columns.start), self.dtype)
        done = 0
        for part in self.batches(columns, self._batch_rows(columns.stop - columns.start)):
            out[done : done + len(part)] = part
            done += len(part)
            self.activations.tick(0)
        return out

    def neurons(self, chosen: Iterable[int]) -> dict[int, NDArray]:
        """Return all tokens of single neurons, (n,) each, in one pass; in the order given."""
        found = {}
        for columns, tile in self.tiles():
            tile = self.on_host(tile)
            found |= {int(k): tile[:, k - columns.start].copy() for k in chosen if columns.start <= k < columns.stop}
        return {int(k): found[int(k)] for k in chosen}

    def weights_of(self, columns: slice) -> NDArray:
        """Return the weights that some neurons are computed with, (k, t, d)."""
        if self.weights is not None:
            return self.weights[:, columns]
        assert self.layer.weight is not None  # a layer that is scored has outputs, or input and weight
        return self._floats(self.layer.weight, columns)[None]

    def sample(self, columns: slice, count: int) -> Array:
        """Return about `count` tokens of the given neurons, from all over the text, as `array` does."""
        kept = np.flatnonzero(self.tokens.keep)
        step, length = -(-len(kept) // 16), -(-count // 16)
        starts = [kept[min(first + max(0, step - length) // 3, len(kept) - 1)] for first in range(0, len(kept), step)]
        parts = [slice(int(start), min(int(start) + length, self.layer.rows)) for start in starts]
        return self.array(parts, columns)

    def taken(self, values: Array) -> Array:
        """Hand outputs to the backend: as floats, but those that are on a device in half precision stay so."""
        on_host = isinstance(values, np.ndarray)
        return self.backend.asarray(values, self.dtype if on_host else str(values.dtype).rpartition(".")[2])

    def on_host(self, values: Array) -> NDArray:
        """Return outputs as floats of NumPy, which all but those on a device are already."""
        if isinstance(values, np.ndarray):
            return values
        return self.backend.to_numpy(self.backend.asarray(values, self.dtype))

    def array(self, runs: Sequence[slice], columns: slice) -> Array:
        """Return those of some runs of rows that count, of the given neurons, as what the backend's `asarray` takes."""
        if self.layer.output is not None:
            return self.layer.output.floats(runs, self.tokens.keep, columns)
        return np.concatenate([self.batch(rows, columns) for rows in runs])

    def _resident_tiles(self, output: Matrix) -> Iterator[tuple[slice, Array]]:
        for columns in self._split(output.columns, output.itemsize, 0, whole=True):
            yield columns, self.array([slice(0, output.rows)], columns)

    def _stored_tiles(self, output: Matrix) -> Iterator[tuple[slice, NDArray]]:
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
                self.activations.tick(0)
            for first in range(0, raw.shape[1], narrow):
                part = raw[:, first : first + narrow]
                part = part if self.tokens.all_kept else part[self.tokens.keep]
                output.check_finite(part, self.tokens.keep)
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
            yield wide, self.of(wide, buffer.of(wide))
        self._input = None

    def _split(self, columns: int, itemsize: int, spare: int, whole: bool) -> list[slice]:
        """Cut the columns into tiles that fit beside `spare` bytes; a tile that is scored whole needs room for that."""
        held, room = self.layer.rows * itemsize + self._weight_bytes(), self.memory - spare
        width = room // held
        if whole:
            held += STATE
            width = max(room // (held + self._scratch(1)), (room - self._scratch(columns)) // held)
        if width < 1:
            need = spare + held + self._scratch(1)
            raise MemoryBudgetError(
                f"{self.layer.name}: one neuron's {self.layer.rows} outputs need {need // 1024 + 1} KiB at least, and "
                f"{self.memory // 1024} KiB are allowed; give more --memory, or score with --streaming --pairs 0"
            )
        width = width if width < 16 else width // 16 * 16
        count = -(-columns // min(width, columns))
        bounds = [columns * i // count for i in range(count + 1)]
        return [slice(a, b) for a, b in pairwise(bounds)]

    def _scratch(self, columns: int) -> int:
        """Bytes for sorting or pairing the neurons that are worked on at a time: 16 a thread, or all at once."""
        threads = getattr(self.backend, "threads", None)
        if threads is None:
            return columns * self.layer.rows * 6 * 8  # float64 throughout, and copies
        return min(columns, 16 * threads) * self.layer.rows * 2 * self._itemsize

    def _weight_bytes(self) -> int:
        """Bytes of a neuron's weights, as they are read and as they are used; none if outputs are stored."""
        weight = self.layer.weight
        if self.layer.output is not None or weight is None:
            return 0
        experts = 1 if self.weights is None else len(self.weights)
        return weight.columns * (weight.itemsize + 2 * self._itemsize) * experts

    def _batch_rows(self, width: int) -> int:
        source = self.layer.output or self.layer.input
        held = width * self._itemsize + (source.columns * (self._itemsize + source.itemsize) if source else 0)
        return max(1, min(self.memory // 8, 2**26) // held)

    def batch(self, rows: slice, columns: slice) -> NDArray:
        """Return those of the given rows that count, of the given neurons."""
        output = self.layer.output
        if output is not None:
            return self.on_host(self.array([rows], columns))
        kept = self._kept(rows)
        x = self._read_input(rows) if self._input is None else self._input[kept]
        x = self.backend.asarray(x, self.dtype)
        w, b = self._parameters(columns)
        labels = self.backend.asarray(self.labels[kept], "int64")
        y = self.backend.to_numpy(self.backend.routed_linear(x, w, b, labels))
        if not is_finite(y):
            raise NonFiniteError(
                f"{self.layer.name}: outputs computed from input and weight overflow {self.dtype}; scale the input down"
            )
        return y

    def _parameters(self, columns: slice) -> tuple[Array, Array | None]:
        """Return the weights (k, t, d) and biases (t,) of some neurons, read once for all their tokens."""
        if self._held is None or self._held[0] != columns:
            bias = self.layer.bias
            self._held = None  # before the next is read
            w = self.backend.asarray(self.weights_of(columns), self.dtype)
            b = None if bias is None else self.backend.asarray(self._floats(bias, columns)[:, 0], self.dtype)
            self._held = columns, w, b
        return self._held[1:]

    def _read_input(self, rows: slice) -> NDArray:
        return self.activations.read_input(rows, self.dtype)

    def _floats(self, tensor: Matrix, rows: slice) -> NDArray:
        raw = tensor.read(rows)
        tensor.check_finite(raw)
        return as_floats(raw).astype(self.dtype, copy=False)

    def _kept(self, rows: slice) -> slice:
        """Where rows of the file lie among the tokens that count."""
        if self.tokens.all_kept:
            return rows
        before = int(np.count_nonzero(self.tokens.keep[: rows.start]))
        return slice(before, before + int(np.count_nonzero(self.tokens.keep[rows])))
