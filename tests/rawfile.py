"""Safetensors files written byte by byte, so that tests do not trust the writer they test, and can write nonsense."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL", "uint8": "U8", "int8": "I8",
         "int32": "I32", "int64": "I64", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
         "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ"}  # fmt: skip


def pack(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Put a file together; a header that is no bytes is written as JSON, padded to eight bytes."""
    if not isinstance(header, bytes):
        text = header if isinstance(header, str) else json.dumps(header)
        header = text.encode("utf-8", "surrogatepass")
        header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def layout(tensors: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], bytes]:
    """Return the entries and the data of arrays, or of (dtype, shape, bytes); wide types first."""
    ready: list[tuple[float, str, str, list[int], bytes]] = []
    for name, value in tensors.items():
        if not isinstance(value, tuple):
            array = np.asarray(value)
            value = NAMES[array.dtype.name], list(array.shape), array.tobytes()
        dtype, shape, content = value
        ready.append((-len(content) / max(1, prod(shape)), name, dtype, shape, content))
    header, offset = {}, 0
    ready.sort(key=lambda item: item[0])
    for _, name, dtype, shape, content in ready:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(content)]}
        offset += len(content)
    return header, b"".join(content for *_, content in ready)


def write(path: Path, tensors: dict[str, Any], **metadata: str) -> Path:
    """Write a sound file; metadata without the prefix ``wncore.``."""
    header, data = layout(tensors)
    described = {"__metadata__": {f"wncore.{key}": value for key, value in metadata.items()}}
    path.write_bytes(pack({**described, **header} if metadata else header, data))
    return path


def read(path: Path) -> tuple[dict[str, tuple[str, list[int], bytes]], dict[str, str]]:
    """Take a sound file apart: (dtype, shape, bytes) by name, and the metadata."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata, data = header.pop("__metadata__", {}), content[8 + length :]
    parts = {name: (one["dtype"], one["shape"], data[slice(*one["data_offsets"])]) for name, one in header.items()}
    return parts, metadata
