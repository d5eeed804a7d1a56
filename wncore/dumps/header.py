"""The header of a safetensors file, checked before anything is read by it.

Format: https://huggingface.co/docs/safetensors; eight bytes of length, JSON of that length, then the bytes of the
tensors without gap or overlap. The safetensors library is not asked: it maps the file, so that one that shrinks
meanwhile kills the process, it keeps the last of two tensors of one name, and does not say which tensor is wrong.
Whatever is accepted here, the library accepts and reads alike (tests/test_hostile.py); whatever it accepts is accepted
here (tests/test_dump_liberal.py), except names that stand twice, and headers longer than `LONGEST`.
"""

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from wncore.dumps import strict_json
from wncore.dumps.foreign import refuse_foreign
from wncore.errors import DumpError

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I64": np.dtype(np.int64),
}
"""What can be read: every float type, powers of two as scales, the two types of a mask, and counts."""
FLOATS = DTYPES.keys() - {"F8_E8M0", "BOOL", "U8", "I64"}

OTHERS = "F4:4 F6_E2M3:6 F6_E3M2:6 I8:8 I16:16 U16:16 I32:32 U32:32 U64:64 C64:64"
BITS = {name: 8 * dtype.itemsize for name, dtype in DTYPES.items()} | {
    name: int(bits) for name, bits in (other.split(":") for other in OTHERS.split())
}
"""Size of a value of every type that the format knows."""

LONGEST = 32 * 2**20
"""Bytes of the longest header that is read; a header of 100,000 tensors has about 10 MiB."""
LONGEST_NAME = 1000
"""Characters of the longest name, and `MOST_AXES` the most axes, of a tensor that is used; others are passed over."""
MOST_AXES = 64
SIZES = 2**64
"""No size or position, and no product of sizes, reaches it."""
FIELDS = ("dtype", "shape", "data_offsets")


@dataclass(frozen=True)
class Entry:
    """One tensor, and where it lies in its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """From the start of the file, in bytes."""
    channels: int = 1
    """How many axes, the last ones, are columns; the others are rows."""

    @property
    def leading(self) -> tuple[int, ...]:
        """The axes that are rows."""
        return self.shape[: len(self.shape) - self.channels]

    @property
    def rows(self) -> int:
        """The product of the axes that are rows."""
        return prod(self.leading)

    @property
    def columns(self) -> int:
        """The product of the others."""
        return prod(self.shape[len(self.leading) :])

    @property
    def floating(self) -> bool:
        """Whether its values are floats that can be read."""
        return self.dtype in FLOATS

    @property
    def nbytes(self) -> int:
        """Size of the tensor on the disk."""
        return prod(self.shape) * BITS[self.dtype] // 8


@dataclass(frozen=True)
class Header:
    """The tensors and the metadata of one file, and its size and time to notice a change."""

    path: Path
    tensors: dict[str, Entry]
    metadata: dict[str, str]
    stamp: tuple[int, int]


def read_header(path: Path) -> Header:
    """Read and check a file's header; no tensor is read.

    Raises
    ------
    DumpError
        If the file is missing, not a regular file, or not sound safetensors.
    """
    with open_regular(path) as file, refuse_foreign(path, file):
        now = stamp(file)
        text = _header_text(path, file, now[0])
        content = _parsed(path, text)
    metadata: Any = content.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not strict_json.is_object(metadata) or not all(isinstance(value, str) for value in metadata.values()):
        raise DumpError(f"{path} has metadata that is not text; write it again, every value a string")
    start = 8 + len(text)
    tensors = {name: _entry(path, name, value, start) for name, value in content.items()}
    _check_layout(path, tensors, start, now[0])
    return Header(path, tensors, metadata, now)


@contextmanager
def open_regular(path: Path) -> Generator[FileIO, None, None]:
    """Open a regular file, and nothing that would make us wait or never end.

    Raises
    ------
    DumpError
        If it is missing, not a regular file, or cannot be read, or reading it fails within the block.
    """
    try:
        _demand_regular(path, path.stat())
        with FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            _demand_regular(path, os.fstat(file.fileno()))  # it may have been replaced meanwhile
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DumpError(f"there is no file {path}; name another") from error
    except OSError as error:
        raise DumpError(f"{path} cannot be read: {error.strerror or error}; name another file") from error


def _demand_regular(path: Path, state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise DumpError(f"{path} is not a regular file; give a .safetensors file, an index or a folder of them")


def stamp(file: FileIO) -> tuple[int, int]:
    """Return size and time of change."""
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


def _header_text(path: Path, file: FileIO, size: int) -> bytes:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise DumpError(
            f"{path} is truncated or no safetensors file: it has {size} bytes and announces a header of {length}; "
            f"copy or write it again"
        )
    if length > LONGEST:
        raise DumpError(f"{path} has a header of {length} bytes; more than {LONGEST} are not read, split the file")
    return file.read(length)


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    try:
        content = strict_json.loads(text)
    except ValueError as error:
        raise DumpError(f"{path} has a header that is not sound JSON: {error}; write it again") from error
    if not strict_json.is_object(content):
        raise DumpError(f"{path} has a header that is no JSON object; write it again")
    return content


def _entry(path: Path, name: str, content: Any, start: int) -> Entry:
    def demand(sound: bool, what: str) -> None:
        if not sound:
            raise DumpError(f"{path} is damaged: {name[:80]} {what}; write it again")

    found: list[Any] = []
    if strict_json.is_object(content):
        found = [content[key] for key in FIELDS if key in content]
    elif strict_json.is_list(content):  # the library takes the fields in their order, too
        found = content
    demand(len(found) == len(FIELDS), f"needs {', '.join(FIELDS)}")
    dtype, shape, offsets = found
    demand(isinstance(dtype, str) and dtype in BITS, f"has the type {str(dtype)[:40]!r}; known are {' '.join(BITS)}")
    demand(_are_sizes(shape), "has a shape that is no list of sizes")
    demand(_are_sizes(offsets) and len(offsets) == 2, "has data_offsets that are not two positions")
    begin, end = offsets
    bits = _product([*shape, BITS[dtype]])
    demand(bits == 8 * (end - begin), f"is {dtype} {_short(shape)} and has {end - begin} bytes, from {begin} to {end}")
    return Entry(name, dtype, tuple(shape), start + begin)


def _are_sizes(values: Any) -> bool:
    """Whether it is a list of whole numbers that 64 bits can hold."""
    return strict_json.is_list(values) and all(type(value) is int and 0 <= value < SIZES for value in values)


def _product(sizes: list[int]) -> int | None:
    """Multiply in this order, as the library does: None as soon as 64 bits cannot hold it, whatever follows."""
    found = 1
    for size in sizes:
        found *= size
        if found >= SIZES:
            return None
    return found


def _short(shape: list[int]) -> str:
    return str(shape) if len(shape) <= MOST_AXES else f"of {len(shape)} axes"


def _check_layout(path: Path, tensors: dict[str, Entry], start: int, size: int) -> None:
    """Demand that the tensors fill the file from `start` to `size` without overlap or gap."""
    end, before = start, "the header"
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if entry.offset != end:
            what = "overlap" if entry.offset < end else "leave a gap"
            raise DumpError(f"{path} is damaged: {before} and {name[:80]} {what}; write it again")
        end, before = entry.offset + entry.nbytes, name[:80]
    if end > size:
        raise DumpError(f"{path} is truncated: {before} ends at byte {end} of {size}; copy or write it again")
    if end < size:
        raise DumpError(f"{path} is damaged: {size - end} bytes follow {before}; copy or write it again")
