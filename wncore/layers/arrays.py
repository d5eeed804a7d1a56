"""Layers whose matrices are arrays in memory: the second owner of activations, beside dumps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.backend import Backend
from wncore.dumps.layer import choose_tokens, demand_two
from wncore.dumps.tensor import OnHost, as_floats, is_finite
from wncore.dumps.write import NAMES
from wncore.errors import InputError, NonFiniteError, ShapeError
from wncore.layers.activations import Activations
from wncore.matrix import LinearLayer, cut_rows


class Resident:
    """What a matrix in memory says of itself, whichever library has its values (rows, columns)."""

    values: Any

    @property
    def rows(self) -> int:
        """Their number, padding included."""
        return self.values.shape[0]

    @property
    def columns(self) -> int:
        """Their number."""
        return self.values.shape[1]

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return self.values.itemsize

    @property
    def resident(self) -> bool:
        """Always."""
        return True

    def chunks(self, row_bytes: int, budget: int) -> Iterator[slice]:
        """Cut the rows so that `row_bytes` for each row of a slice stay below `budget`."""
        return cut_rows(self.rows, row_bytes, budget)


@dataclass(frozen=True, eq=False)
class Held(Resident, OnHost):
    """A matrix (rows, columns) in memory, as NumPy has it."""

    name: str
    values: NDArray[Any]

    @property
    def dtype(self) -> str:
        """As safetensors calls it."""
        return NAMES[self.values.dtype]

    def read(self, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[Any]:
        """Return a view of a part."""
        return self.values[rows, columns]

    def pick(self, rows: NDArray[np.int64], columns: slice = slice(None)) -> NDArray[Any]:
        """Return some rows."""
        return self.values[rows, columns]

    def floats(self, runs: Sequence[slice], keep: NDArray[np.bool_], columns: slice = slice(None)) -> NDArray[Any]:
        """Return those rows of some runs that count, widened."""
        parts = [self.values[rows, columns] for rows in runs]
        parts = [
            part if keep[rows].all() else part[keep[rows]] for rows, part in zip(runs, parts, strict=True)
        ]  # what counts whole is not copied
        for part in parts:
            self.check_finite(part)
        return as_floats(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def check_finite(self, part: NDArray[Any], keep: NDArray[np.bool_] | None = None) -> None:
        """Raise `NonFiniteError` if a part holds NaN or infinity."""
        if not is_finite(part):
            raise not_finite(self.name)


def not_finite(name: str) -> NonFiniteError:
    """Return the error for a matrix in memory that holds NaN or infinity."""
    return NonFiniteError(f"{name} holds NaN or infinity; compute it in a wider dtype")


def hold_layer(
    name: str,
    backend: Backend,
    *,
    input: ArrayLike | None = None,
    output: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    keep: NDArray[np.bool_] | None = None,
    sequence_length: int | None = None,
    skip_tokens: int = 0,
    **reading: Any,
) -> Activations:
    """Open arrays as a layer: input (r, d), output (r, m), weight (m, d), bias (m,); which rows count, `keep` (r,).

    Other options are those of `Activations`. Inputs and outputs may have more axes, the last of channels, the one
    before it of positions, which gives the length of a sequence.

    >>> from wncore.backend import get_backend
    >>> y = np.arange(12.0).reshape(2, 3, 2)
    >>> hold_layer("fc", get_backend(), output=y).tokens.first
    array([ True, False, False,  True, False, False])

    Raises
    ------
    ShapeError
        If arrays do not fit together, or tell other sequences, or have a dtype that no dump can hold.
    InputError
        If tokens are to be skipped, and nothing tells how long a sequence is.
    TooFewTokensError
        If fewer than 2 rows count.
    """
    parts: dict[str, Any] = {}
    axes: dict[str, tuple[int, ...]] = {}
    for part, given in (("input", input), ("output", output), ("weight", weight), ("bias", bias)):
        if given is not None:
            values = np.asarray(given)
            parts[part] = _held(f"{name}.{part}", values, column=part == "bias")
            if part in ("input", "output") and values.ndim > 2:
                axes[part] = values.shape[:-1]
    sequence_length = _length(name, axes, sequence_length)
    layer = LinearLayer(name, **parts)
    _check_shapes(layer)
    sequence = np.arange(layer.rows) // sequence_length if sequence_length else None
    if sequence is None and skip_tokens:
        raise InputError(
            f"{name}: skip_tokens needs the length of a sequence, and no axes tell it; give sequence_length"
        )
    tokens = choose_tokens(np.ones(layer.rows, bool) if keep is None else keep, sequence, skip_tokens)
    if layer.rows:
        demand_two(name, tokens)
    return Activations(layer, tokens, backend, skip_tokens, **reading)


def _held(name: str, values: NDArray[Any], column: bool) -> Held:
    if column:
        return Held(name, values.reshape(-1, 1))
    if values.ndim < 2 or values.dtype not in NAMES:
        raise ShapeError(f"{name} is {values.dtype} of shape {values.shape}; give floats of two or more axes")
    return Held(name, values.reshape(-1, values.shape[-1]))


def _length(name: str, axes: dict[str, tuple[int, ...]], stated: int | None) -> int | None:
    """Return the tokens of a sequence: of the axes, single rows aside, all of which must agree with what is stated."""
    told = {part: sizes[-1] for part, sizes in axes.items() if 1 < sizes[-1] < prod(sizes)}
    told |= {"sequence_length": stated} if stated else {}
    if len(set(told.values())) > 1:
        lengths = ", ".join(f"{length} by {part}" for part, length in told.items())
        raise ShapeError(f"{name}: the tokens of a sequence are {lengths}; swap axes, or give the right length")
    return next(iter(told.values()), next((sizes[-1] for sizes in axes.values() if sizes[-1] > 1), None))


def _check_shapes(layer: LinearLayer) -> None:
    x, y, w, b = layer.input, layer.output, layer.weight, layer.bias
    pairs = [
        (x and x.rows, y and y.rows, "tokens of input and output"),
        (x and x.columns, w and w.columns, "channels of input and weight"),
        (y and y.columns, w and w.rows, "neurons of output and weight"),
        (b and b.rows, layer.neurons or None, "neurons of bias and layer"),
    ]
    for one, other, what in pairs:
        if one is not None and other is not None and one != other:
            raise ShapeError(f"{layer.name}: {what} differ, {one} and {other}")
