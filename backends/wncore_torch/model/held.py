"""What a block's layers read and give, collected while it runs, and held in memory as matrices."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wncore.dumps.header import DTYPES
from wncore.layers.arrays import Held, Resident, not_finite
from wncore.matrix import Matrix
from wncore_torch.model.headers import DTYPES as TORCH
from wncore_torch.model.linears import Linear
from wncore_torch.model.stream import Read

NAMES = {dtype: name for name, dtype in TORCH.items()}
"""What safetensors calls each dtype of torch."""


@dataclass(eq=False)
class OnDevice(Resident):
    """A matrix (rows, columns) on a device, where a backend of torch reads it."""

    name: str
    values: Tensor

    @property
    def dtype(self) -> str:
        """As safetensors calls it."""
        return NAMES[self.values.dtype]

    def read(self, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[Any]:
        """Copy a part to the host."""
        return to_numpy(self.values[rows, columns].contiguous())

    def pick(self, rows: NDArray[np.int64], columns: slice = slice(None)) -> NDArray[Any]:
        """Copy some rows to the host."""
        return to_numpy(self.values[torch.from_numpy(rows).to(self.values.device), columns])

    def floats(self, runs: Sequence[slice], keep: NDArray[np.bool_], columns: slice = slice(None)) -> Any:
        """Return those rows of some runs that count; they stay on the device, but for float64."""
        parts = [self.values[rows, columns] for rows in runs]
        for i, rows in enumerate(runs):
            if not keep[rows].all():
                parts[i] = parts[i][torch.from_numpy(keep[rows]).to(self.values.device)]
        part = parts[0] if len(parts) == 1 else torch.cat(parts)
        self._demand_finite(part)
        return to_numpy(part) if part.dtype == torch.float64 else part

    def doubles(self, rows: slice | NDArray[np.int64]) -> Any:
        """Return some rows as float64, on the device, but for those that are float64 already."""
        chosen = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self.values.device)
        part = self.values[chosen]
        self._demand_finite(part)
        return to_numpy(part) if part.dtype == torch.float64 else part.double()

    @cached_property
    def _finite(self) -> bool:
        """Whether all values are, asked once."""
        return _is_finite(self.values)

    def _demand_finite(self, part: Tensor) -> None:
        """Look at a part if not all values are finite: those that do not count may be anything."""
        if not (self._finite or _is_finite(part)):
            raise not_finite(self.name)

    def check_finite(self, part: NDArray[Any], keep: NDArray[np.bool_] | None = None) -> None:
        """Raise `NonFiniteError` if a part that was read holds NaN or infinity."""
        Held(self.name, part).check_finite(part)


def _is_finite(part: Tensor) -> bool:
    """Say whether no value is NaN or infinite, which shows in the extremes: one read."""
    return not part.numel() or bool(torch.stack(part.aminmax()).isfinite().all())


def to_numpy(values: Tensor) -> NDArray[Any]:
    """Return the values as NumPy has them; on the CPU memory is shared."""
    host = values.detach().cpu()
    if host.dtype == torch.bfloat16:
        return host.view(torch.uint16).numpy().view(DTYPES["BF16"])
    return host.numpy()


def to_tensor(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor on the host, which shares the memory: `to_numpy` undone."""
    if array.dtype == DTYPES["BF16"]:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def matrix(name: str, values: Tensor) -> Matrix:
    """Hold a matrix where it is, row by row: by NumPy on the CPU."""
    values = values.contiguous()  # of a weight that is stored the other way a copy
    return Held(name, to_numpy(values)) if values.device.type == "cpu" else OnDevice(name, values)


class Rows:
    """Rows (k, c) that come batch by batch, to be a matrix; there will be `total`, if each token has one."""

    def __init__(self, total: int, place: torch.device) -> None:
        self._total, self._place, self._filled = total, place, 0
        self._buffer: Tensor | None = None
        self._parts: list[Tensor] = []

    def add(self, rows: Tensor, whole: bool) -> None:
        """Copy rows; `whole`: one for each token of a batch, as it is with all but experts."""
        if whole and self._buffer is None and not self._parts:
            self._buffer = rows.new_empty((self._total, rows.shape[1]), device=self._place)
        if self._buffer is None or self._filled + len(rows) > self._total:
            self._parts.append(rows.to(self._place, copy=True))
            return
        self._buffer[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)

    def result(self) -> Tensor:
        """Return all rows, and let go of them."""
        parts = [] if self._buffer is None else [self._buffer[: self._filled]]
        parts += self._parts
        self._buffer, self._parts = None, []
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class InMemory:
    """Keeps what is collected at a place in memory."""

    def __init__(self, total: int, place: torch.device) -> None:
        self._total, self._place = total, place
        self._rows: dict[tuple[str, str], Rows] = {}

    def add(self, name: str, part: str, batch: int, values: Tensor, whole: bool) -> None:
        """Take one batch of a part of a layer; `whole`: a row for each of its tokens."""
        self._rows.setdefault((name, part), Rows(self._total, self._place)).add(values, whole)

    def matrix(self, name: str, part: str) -> Matrix | None:
        """Return what was taken, None if nothing was, and let go of it."""
        rows = self._rows.pop((name, part), None)
        return None if rows is None else matrix(f"{name}.{part}", rows.result())


class Store(Protocol):
    """Where what is collected is kept."""

    def add(self, name: str, part: str, batch: int, values: Tensor, whole: bool) -> None:
        """As `InMemory.add`."""
        ...


class Collected:
    """Takes what some layers of a block read and give, into a store; remembers which tokens, and how long inputs are.

    `parts` are "input" and "output"; of layers that share an input the first holds it. `starts` is the number of the
    first token of each batch, and that of all tokens.
    """

    def __init__(self, layers: Sequence[Linear], parts: Collection[str], starts: Sequence[int], store: Store) -> None:
        self._parts, self._starts, self._store = parts, starts, store
        self.holder = holders(layers)
        self._tokens: dict[str, list[range | Tensor | None]] = {}
        self._norms: dict[str, Rows] = {}  # not many small tensors, which would break up the memory between large ones
        self._lengths: dict[str, NDArray[np.float32]] = {}
        self._read = dict.fromkeys(self.holder, 0)
        self._torn: set[str] = set()

    @property
    def total(self) -> int:
        """How many tokens the text has."""
        return self._starts[-1]

    def take(self, read: Read) -> None:
        """Take one batch of one layer."""
        name, (start, stop) = read.layer.name, self._starts[read.batch : read.batch + 2]
        whole = read.tokens is not None and len(read.tokens) == stop - start
        if "output" in self._parts:
            self._store.add(name, "output", read.batch, read.y, whole)
        self._read[name] += len(read.x)
        if not whole:
            self._torn.add(name)
        told = None if read.tokens is None else range(start, stop) if whole else read.tokens.cpu() + start
        self._tokens.setdefault(name, []).append(told)
        if self.holder[name] == name:
            if "input" in self._parts:
                self._store.add(name, "input", read.batch, read.x, whole)
            norms = torch.linalg.vector_norm(read.x, dim=1, keepdim=True, dtype=torch.float32)
            self._norms.setdefault(name, Rows(self.total, norms.device)).add(norms, whole)

    def reads_all(self, name: str) -> bool:
        """Whether a layer read every token once, in order."""
        return name not in self._torn and self._read[name] == self.total

    def tokens(self, name: str) -> NDArray[np.int64] | None:
        """Return which tokens of the text a layer's rows are; None if the model hides it."""
        told = [np.zeros(0, np.int64)]
        for part in self._tokens.get(name, ()):
            if part is None:
                return None
            told.append(np.arange(part.start, part.stop) if isinstance(part, range) else part.numpy())
        return np.concatenate(told)

    def norms(self, holder: str) -> NDArray[np.float32]:
        """Return the lengths of the inputs that a layer holds, (n,)."""
        if holder not in self._lengths:
            rows = self._norms.pop(holder, None)
            self._lengths[holder] = np.zeros(0, np.float32) if rows is None else rows.result()[:, 0].cpu().numpy()
        return self._lengths[holder]


def holders(layers: Sequence[Linear]) -> dict[str, str]:
    """Say of each layer which holds its input: the first of those that read the same."""
    first: dict[str, str] = {}
    return {layer.name: first.setdefault(layer.reads, layer.name) for layer in layers}
