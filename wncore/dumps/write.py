"""Writing dumps and results: contiguous arrays only, whole files only.

Every write goes through `write_tensors`. The safetensors library is not asked: 0.8 writes garbage for arrays that are
not C-contiguous (https://github.com/huggingface/safetensors/issues/825), and it orders the metadata anew each time, so
that no run would give the same file twice.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.dumps.header import DTYPES, LONGEST, LONGEST_NAME
from wncore.dumps.recognition import MASK, SUFFIXES
from wncore.dumps.tensor import CHUNK
from wncore.errors import InputError, ShapeError
from wncore.files import check_output, flush, release, replacing

TOKENS = ("input", "output")
NAMES = {dtype: name for name, dtype in DTYPES.items()} | {
    np.dtype(f"{kind}{size}"): f"{kind.upper()}{8 * size}" for kind in "iu" for size in (1, 2, 4, 8)
}
"""What the format calls each dtype that it can store."""


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, ArrayLike],
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write one safetensors file, atomically.

    Raises
    ------
    OutputExistsError
        If the file exists and `force` is off.
    InputError, ShapeError
        If a name, metadata or a dtype cannot be stored.
    WncoreError
        If writing fails, on a full disk say; an old file is left as it was.
    """
    path, arrays = Path(path), {name: np.asarray(array) for name, array in tensors.items()}
    header = encode_header(path, arrays, metadata or {})
    with replacing(path, force) as temporary:
        _save(temporary, header, arrays)


def write_dump(
    path: str | Path,
    tensors: Mapping[str, ArrayLike],
    *,
    model: str = "",
    text: str = "",
    sequence_length: int | None = None,
    shared_inputs: Mapping[str, str] | None = None,
    gram_tokens: Mapping[str, int] | None = None,
    shard_bytes: int | None = None,
    force: bool = False,
) -> list[Path]:
    """Write a dump of schema 1; return the files written.

    With `shard_bytes`, `path` is a folder: no file in it holds more bytes of tensors than that; inputs and outputs are
    cut between sequences, and ``dump.safetensors.index.json`` names the files of each tensor. No file takes its place
    before all are written.

    Raises
    ------
    InputError
        If one sequence, or one weight, is larger than `shard_bytes`, or `sequence_length` is not positive.
    ShapeError
        If an array has no dimension, or is empty.
    """
    if sequence_length is not None and sequence_length < 1:
        raise InputError(f"a sequence has at least one token; got a length of {sequence_length}")
    arrays = {name: np.asarray(array) for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.ndim == 0 or array.size == 0:
            raise ShapeError(f"{name} has the shape {array.shape}; a tensor of a dump holds at least one row")
        if len(name) > LONGEST_NAME:
            raise InputError(
                f"{name[:80]}... is a name of {len(name)} characters; {LONGEST_NAME} can be read, choose another"
            )
    metadata = {"wncore.schema": "1", "wncore.model": model, "wncore.text": text}
    if sequence_length is not None:
        metadata["wncore.sequence_length"] = str(sequence_length)
    if shared_inputs:
        metadata["wncore.shared_inputs"] = json.dumps(dict(shared_inputs))
    if gram_tokens:
        metadata["wncore.gram_tokens"] = json.dumps(dict(gram_tokens))
    if shard_bytes is None:
        write_tensors(path, arrays, metadata, force)
        return [Path(path)]
    return _write_shards(Path(path), arrays, metadata, sequence_length or 1, shard_bytes, force)


def encode_header(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Describe arrays in the order in which they are stored, padded so that the first starts at a multiple of 8.

    Raises
    ------
    InputError, ShapeError
        If a name, metadata or a dtype cannot be stored.
    """
    content: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, array in in_order(arrays):
        if name in ("", "__metadata__"):
            raise InputError(f"{path}: {name!r} cannot be the name of a tensor; choose another")
        if _stored(array) not in NAMES:
            raise ShapeError(f"{name} has the dtype {array.dtype}; what can be stored: {' '.join(NAMES.values())}")
        content[name] = {
            "dtype": NAMES[_stored(array)],
            "shape": list(array.shape),
            "data_offsets": [offset, offset := offset + array.nbytes],
        }
    if {type(text) for item in metadata.items() for text in item} - {str}:
        raise InputError(f"{path}: metadata must be text, every name and every value; got {dict(metadata)}")
    try:
        header = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a name or metadata are no Unicode text: {error}; choose another") from error
    if len(header) > LONGEST:
        raise InputError(f"{path} would have a header of {len(header)} bytes; {LONGEST} can be read, split the file")
    return header + b" " * (-len(header) % 8)


def _save(temporary: Path, header: bytes, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the file and flush it to the disk, a few megabytes at a time."""
    with temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, array in in_order(arrays):
            rows = array if array.ndim else array[None]
            step = max(1, CHUNK // max(1, rows[:1].nbytes))
            for first in range(0, len(rows) if rows.size else 0, step):
                part = np.ascontiguousarray(rows[first : first + step], _stored(array))
                file.write(part.reshape(-1).view(np.uint8).data)
            release(array)
        file.flush()
        flush(file.fileno())


def in_order(arrays: Mapping[str, NDArray[Any]]) -> list[tuple[str, NDArray[Any]]]:
    """Sort wide types first, so that every value is aligned, then by name."""
    return sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))


def _stored(array: NDArray[Any]) -> np.dtype[Any]:
    """Return the dtype on the disk: little endian."""
    return array.dtype.newbyteorder("<")


def _write_shards(
    folder: Path,
    tensors: Mapping[str, NDArray[Any]],
    metadata: dict[str, str],
    sequence_length: int,
    shard_bytes: int,
    force: bool,
) -> list[Path]:
    shards: list[dict[str, NDArray[Any]]] = [{}]
    for name, array in tensors.items():
        for piece in _cut(name, array, sequence_length, shard_bytes):
            held = sum(other.nbytes for other in shards[-1].values())
            if shards[-1] and (name in shards[-1] or held + piece.nbytes > shard_bytes):
                shards.append({})
            shards[-1][name] = piece
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"dump-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    index = folder / "dump.safetensors.index.json"
    where: dict[str, list[str]] = {}
    headers: list[bytes] = []
    for path, shard in zip(paths, shards, strict=True):
        check_output(path, force)
        headers.append(encode_header(path, shard, metadata))
        for name in shard:
            where.setdefault(name, []).append(path.name)
    total = sum(array.nbytes for array in tensors.values())
    content = {"metadata": {**metadata, "total_size": total}, "weight_map": where}
    with ExitStack() as stack:
        stack.enter_context(replacing(index, force)).write_text(json.dumps(content, indent=1) + "\n")
        for path, header, shard in zip(paths, headers, shards, strict=True):
            _save(stack.enter_context(replacing(path, force)), header, shard)
    return [*paths, index]


def _cut(name: str, array: NDArray[Any], sequence_length: int, shard_bytes: int) -> list[NDArray[Any]]:
    """Cut an array into as few pieces of about equal size as shards need, between sequences."""
    if array.nbytes <= shard_bytes:
        return [array]
    of_tokens = array.ndim > 1 and name != MASK and SUFFIXES.get(name.rpartition(".")[2], "output") in TOKENS
    unit = 1 if array.ndim > 2 and array.shape[1] > 1 else sequence_length  # a leading axis of sequences, or of tokens
    per_unit = array.nbytes // len(array) * min(unit, len(array)) if of_tokens else array.nbytes
    if per_unit > shard_bytes:
        raise InputError(f"{name} does not fit into shards of {shard_bytes} bytes; it needs {per_unit} at least")
    units = -(-len(array) // unit)
    count = -(-units // (shard_bytes // per_unit))
    bounds = [min(len(array), units * i // count * unit) for i in range(count + 1)]
    return [array[low:high] for low, high in pairwise(bounds)]
