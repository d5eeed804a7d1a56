"""The header of a safetensors file, checked twice: by the safetensors library, and for what it lets pass.

Format: https://huggingface.co/docs/safetensors; eight bytes of length, JSON of that length, then the tensors' bytes.
"""

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

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
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
}
"""What can be read: every float type, and the two types of a mask."""

LONGEST = 32 * 2**20
"""Bytes of the longest header that is read; a header of 100,000 tensors has about 10 MiB."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    """From the start of the file, in bytes."""

    @property
    def rows(self) -> int:
        """The product of all axes but the last."""
        return prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        """Size of the tensor, of a type that `DTYPES` knows."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


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
    if not path.exists():
        raise DumpError(f"there is no file {path}")
    if not path.is_file():
        raise DumpError(f"{path} is not a regular file; give a .safetensors file, an index or a folder of them")
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            text = _header_text(path, file.read(8), file, state.st_size)
        with safe_open(path, framework="np"):  # offsets that overlap, leave gaps, or leave the file
            pass
    except SafetensorError as error:
        raise DumpError(f"{path} is not a sound safetensors file: {error}; write it again") from error
    except OSError as error:
        raise DumpError(f"{path} cannot be read: {error.strerror or error}") from error
    content = _parse(path, text)
    metadata = content.pop("__metadata__", {})
    start = 8 + len(text)
    tensors = {
        name: Entry(entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
        for name, entry in content.items()
    }
    return Header(path, tensors, metadata, (state.st_size, state.st_mtime_ns))


def _header_text(path: Path, prefix: bytes, file: Any, size: int) -> bytes:
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size - 8:
        raise DumpError(
            f"{path} is truncated or no safetensors file: it has {size} bytes and announces a header of {length}"
        )
    if length > LONGEST:
        raise DumpError(f"{path} has a header of {length} bytes; more than {LONGEST} are not read, split the file")
    text: bytes = file.read(length)
    return text


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DumpError(f"{path} names {twice!r} twice in its header; write it again")
        return content

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DumpError):
            raise
        raise DumpError(f"{path} has a header that is not JSON: {error}; write it again") from error
