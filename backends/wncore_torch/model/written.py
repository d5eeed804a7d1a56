"""What a block's layers read and give, written to the disk while it runs: a file of a dump for each block."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from wncore.dumps.header import DTYPES, Header, read_header
from wncore.dumps.stream import Shapes, TensorWriter, streamed_tensors
from wncore.dumps.tensor import Tensor as Stored
from wncore.errors import InputError
from wncore.matrix import Matrix
from wncore_torch.model.folder import Folder
from wncore_torch.model.held import NAMES, holders, to_numpy
from wncore_torch.model.linears import Linear
from wncore_torch.model.parameters import file_dtype
from wncore_torch.model.stream import Block

Counts = Mapping[str, int]
"""Rows of layers that do not read every token: experts."""


def layout(
    folder: Folder, layers: Sequence[Linear], parts: Collection[str], windows: tuple[int, int], counts: Counts
) -> Shapes:
    """Return the tensors of a block: inputs and outputs (w, l, c), those of experts (n, c); weights and biases.

    They have the dtype of the forward, but weights that of the file. Of layers that share an input the first has it;
    one without tokens has nothing.
    """
    shapes: dict[str, tuple[DTypeLike, Sequence[int]]] = {}
    holder, dtype = holders(layers), stored_as(folder.dtype)
    for layer in layers:
        m, d = layer.shape
        rows = (counts[layer.name],) if layer.name in counts else windows
        if not rows[0]:
            continue
        if "input" in parts and holder[layer.name] == layer.name:
            shapes[f"{layer.name}.input"] = dtype, (*rows, d)
        if "output" in parts:
            shapes[f"{layer.name}.output"] = dtype, (*rows, m)
        if "weight" in parts:
            shapes[f"{layer.name}.weight"] = stored_as(file_dtype(folder, layer.parameter)), (m, d)
            if layer.bias is not None:
                shapes[f"{layer.name}.bias"] = dtype, (m,)
    return shapes


def size_of(shapes: Shapes) -> int:
    """Return the bytes of tensors."""
    return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape in shapes.values())


def count_rows(block: Block, layers: Sequence[Linear]) -> Counts:
    """Run the block for nothing but how many tokens its experts read; not at all if none of the layers is one."""
    experts = {layer.name for layer in layers if layer.routed}
    return block.run(lambda _: None, experts) if experts else {}


class OnDisk:
    """Writes what is collected to its place in a file; `starts` as those of `Collected`, `length` of a window."""

    def __init__(self, writer: TensorWriter, counts: Counts, starts: Sequence[int], length: int) -> None:
        self._writer, self._counts, self._starts, self._length = writer, counts, starts, length
        self._done: dict[tuple[str, str], int] = {}

    def add(self, name: str, part: str, batch: int, values: Tensor, whole: bool) -> None:
        """Write one batch of a part of a layer; `whole`: a row for each of its tokens."""
        rows, first = to_numpy(values), self._done.get((name, part), 0)
        if name not in self._counts:
            if not whole:
                raise InputError(f"{name} reads some tokens only; leave it out with --exclude")
            rows, first = rows.reshape(-1, self._length, rows.shape[1]), self._starts[batch] // self._length
        self._writer.write(f"{name}.{part}", first, rows)
        self._done[name, part] = first + len(rows)


class Spooled:
    """Keeps what is collected in a file, and reads it when it is asked for."""

    def __init__(self, path: Path, store: OnDisk, finish: Callable[[], object]) -> None:
        self._path, self._finish = path, finish
        self.add = store.add
        self._header: Header | None = None

    def matrix(self, name: str, part: str) -> Matrix | None:
        """Return what was written of a part of a layer, None if nothing was."""
        if self._header is None:
            self._finish()  # the file gets its name
            self._header = read_header(self._path)
        entry = self._header.tensors.get(f"{name}.{part}")
        return None if entry is None else Stored(part, ((self._header, entry),))


@contextmanager
def spooled(shapes: Shapes, counts: Counts, starts: Sequence[int], length: int) -> Generator[Spooled, None, None]:
    """Keep what is collected in the folder for temporary files, until the end of the `with`.

    Raises
    ------
    WncoreError
        If the disk is full.
    """
    with TemporaryDirectory(prefix="wncore-") as folder, ExitStack() as opened:
        path = Path(folder, "block.safetensors")
        writer = opened.enter_context(streamed_tensors(path, shapes, lasting=False))
        yield Spooled(path, OnDisk(writer, counts, starts, length), opened.close)


def write_weights(writer: TensorWriter, block: Block, layers: Sequence[Linear], shapes: Shapes) -> None:
    """Write weights as the file has them, and biases as the block runs with them."""
    for layer in layers:
        if f"{layer.name}.weight" in shapes:
            writer.write(f"{layer.name}.weight", 0, to_numpy(block.stored_weight(layer)))
        bias = block.bias(layer)
        if f"{layer.name}.bias" in shapes and bias is not None:
            writer.write(f"{layer.name}.bias", 0, to_numpy(bias))


def stored_as(dtype: torch.dtype) -> DTypeLike:
    """Return the dtype of files for a dtype of torch."""
    return DTYPES[NAMES[dtype]]
