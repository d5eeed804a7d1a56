"""The tensors of a folder's safetensors files, known by the headers; no other kind of file is read.

A tensor has the name that the *file* gives it; a parameter has the name that the *module* gives it (names.py).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from wncore.dumps.header import read_header
from wncore.dumps.sources import read_weight_map
from wncore.errors import DumpError, InputError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
}
"""What a tensor may be of; the eight-bit floats are left out on purpose, as they need scales that lie elsewhere."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Stored:
    """One tensor of a file, and where its bytes lie, counted from the start of the file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def read_headers(path: Path) -> dict[str, Stored]:
    """Read the header of `model.safetensors`, or of the shards of its index: tensor -> where it lies.

    Raises
    ------
    InputError
        If there are no safetensors, an index and its shards disagree, or a tensor is of a dtype that no weight has.
    DumpError
        If a file is damaged.
    """
    index = _read_index(path)
    stored: dict[str, Stored] = {}
    for name in [SINGLE] if index is None else sorted(set(index.values())):
        for tensor, entry in read_header(path / name).tensors.items():
            if tensor in stored:
                raise DumpError(f"{tensor} is in {stored[tensor].file.name} and in {name}; download {path.name} again")
            if entry.dtype not in DTYPES:
                raise InputError(
                    f"{tensor} of {path.name} is {entry.dtype}, which is not read as a weight; known are "
                    f"{' '.join(DTYPES)}, use the original model"
                )
            end = entry.offset + entry.nbytes
            stored[tensor] = Stored(path / name, DTYPES[entry.dtype], entry.shape, entry.offset, end)
            if index is not None and index.get(tensor, name) != name:
                raise DumpError(f"{tensor} is in {name}, and {INDEX} says {index[tensor]}; download {path.name} again")
    if index is not None and index.keys() != stored.keys():
        odd = sorted(index.keys() ^ stored.keys())
        raise DumpError(
            f"{INDEX} and the shards of {path.name} differ in {odd[0]} ({len(odd)} in all); download it again"
        )
    return stored


def _read_index(path: Path) -> dict[str, str] | None:
    """Return the shard of each tensor, or None where one file holds all."""
    if not (path / INDEX).exists():
        if not (path / SINGLE).exists():
            there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
            raise InputError(
                f"{path} has neither {SINGLE} nor {INDEX}; there is {there}. Pickled weights are never read, convert "
                f"them to safetensors first"
            )
        return None
    found = read_weight_map(path / INDEX)
    if not all(isinstance(name, str) for name in found.values()):
        raise DumpError(f"{path / INDEX} has no weight_map that names a file for each tensor; download it again")
    shards = {str(name): str(shard) for name, shard in found.items()}
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise DumpError(f"{path / INDEX} names {shard!r}, which is no safetensors file beside it; do not use it")
        if not (path / shard).exists():
            raise InputError(f"{path} lacks {shard}, which its index names; download it again")
    return shards


class Reader:
    """Reads tensors as they are in their files; each file is opened once, until the end of the `with`."""

    def __init__(self, stored: dict[str, Stored], device: torch.device) -> None:
        self._stored, self._device = stored, device
        self._files: dict[Path, safe_open] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._stack.close()

    def __call__(self, name: str) -> torch.Tensor:
        """Read one tensor to the device, in the file's dtype."""
        file = self._stored[name].file
        if file not in self._files:
            self._files[file] = self._stack.enter_context(safe_open(file, framework="pt"))
        value = self._files[file].get_tensor(name)
        if self._device.type == "cuda":  # a copy from pages that may move halts all who launch kernels meanwhile
            value = value.pin_memory()
        return value.to(self._device, non_blocking=True)


def same_bytes(stored: dict[str, Stored], names: Iterable[str]) -> bool:
    """Say whether tensors are alike in dtype, shape and every byte; read piece by piece, as embeddings are large."""
    first, *others = names
    return all(_alike(stored[first], stored[other]) for other in others)


def _alike(one: Stored, other: Stored) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    pairs = zip(_pieces(one), _pieces(other), strict=True)
    return all(left == right for left, right in pairs)


def _pieces(entry: Stored, size: int = 2**24) -> Iterator[bytes]:
    with entry.file.open("rb") as file:
        file.seek(entry.begin)
        for begin in range(entry.begin, entry.end, size):
            yield file.read(min(size, entry.end - begin))
