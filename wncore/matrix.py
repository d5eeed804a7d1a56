"""The matrices of a linear layer, wherever they lie: in files of a dump, in memory, on a device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Matrix(Protocol):
    """A matrix (rows, columns) that is read in parts; `wncore.dumps.tensor.Tensor` is the one in files."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def rows(self) -> int:
        """Their number, padding included."""
        ...

    @property
    def columns(self) -> int:
        """Their number."""
        ...

    @property
    def dtype(self) -> str:
        """As safetensors calls it: "BF16", "F32"."""
        ...

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        ...

    @property
    def resident(self) -> bool:
        """Whether it is in memory anyhow, so that reading a few columns costs no more than those."""
        ...

    def read(self, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[Any]:
        """Return a part as it is stored, (rows, columns); slices have no step."""
        ...

    def pick(self, rows: NDArray[np.int64], columns: slice = slice(None)) -> NDArray[Any]:
        """Return some rows, their indices rising, as they are stored."""
        ...

    def floats(self, runs: Sequence[slice], keep: NDArray[np.bool_], columns: slice = slice(None)) -> Any:
        """Return those rows of some runs that count, (n, columns), as what `Backend.asarray` takes; bfloat16 may stay.

        `keep` (rows,) is of the whole matrix.

        Raises
        ------
        NonFiniteError
            If one that counts holds NaN or infinity.
        """
        ...

    def doubles(self, rows: slice | NDArray[np.int64]) -> Any:
        """Return some rows as float64, where the matrix is: an array of NumPy's, or of the library of a device.

        Raises
        ------
        NonFiniteError
            If they hold NaN or infinity.
        """
        ...

    def chunks(self, row_bytes: int, budget: int) -> Iterator[slice]:
        """Cut the rows so that `row_bytes` for each row of a slice stay below `budget`."""
        ...

    def check_finite(self, part: NDArray[Any], keep: NDArray[np.bool_] | None = None) -> None:
        """Raise `NonFiniteError` for the whole matrix if a part holds NaN or infinity; `keep` says which rows count."""
        ...


def cut_rows(rows: int, row_bytes: int, budget: int) -> Iterator[slice]:
    """Cut rows so that `row_bytes` for each row of a slice stay below `budget`; one row at least."""
    step = max(1, budget // max(1, row_bytes))
    for first in range(0, rows, step):
        yield slice(first, min(rows, first + step))


@dataclass(frozen=True)
class LinearLayer:
    """What there is of a linear layer; whatever is absent is None."""

    name: str
    input: Matrix | None = None
    """(r, d)"""
    output: Matrix | None = None
    """(r, m)"""
    weight: Matrix | None = None
    """(m, d)"""
    bias: Matrix | None = None
    """(m, 1)"""
    gram: Matrix | None = None
    """(d, d)"""
    gram_tokens: int | None = None
    """Tokens behind the Gram matrix, if its owner says."""

    @property
    def neurons(self) -> int:
        """The number m of outputs."""
        if self.output is not None:
            return self.output.columns
        return self.weight.rows if self.weight is not None else 0

    @property
    def rows(self) -> int:
        """The number r of tokens, padding included."""
        source = self.output or self.input
        return source.rows if source is not None else 0

    @property
    def scorable(self) -> bool:
        """Whether there are outputs, or what they can be computed from."""
        return self.output is not None or (self.input is not None and self.weight is not None)

    @property
    def prunable(self) -> bool:
        """Whether there are weights, and what is needed to know their inputs."""
        return self.weight is not None and (self.input is not None or self.gram is not None)

    @property
    def expandable(self) -> bool:
        """Whether there are weights, and the inputs themselves to cluster."""
        return self.weight is not None and self.input is not None
