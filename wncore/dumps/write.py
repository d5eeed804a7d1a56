"""Writing dumps and results: contiguous arrays only, whole files only.

Every write goes through `write_tensors`: safetensors 0.8 writes garbage for arrays that are not C-contiguous
(https://github.com/huggingface/safetensors/issues/825).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (registers bfloat16 and float8 with NumPy before the library looks)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from wncore.errors import InputError, ShapeError, WncoreError
from wncore.files import check_output, replacing

TOKEN_TENSORS = (".input", ".output")


def write_tensors(
    path: str | Path, tensors: Mapping[str, NDArray], metadata: Mapping[str, str] | None = None, force: bool = False
) -> None:
    """Write one safetensors file, atomically.

    Raises
    ------
    OutputExistsError
        If the file exists and `force` is off.
    WncoreError
        If the disk is full or a dtype cannot be stored; an old file is left as it was.
    """
    path = Path(path)
    ready = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    with replacing(path, force) as temporary:
        try:
            save_file(ready, temporary, dict(metadata or {}))
        except (SafetensorError, KeyError, TypeError) as error:
            raise WncoreError(f"{path} could not be written: {error}; nothing was changed") from error


def write_dump(
    path: str | Path,
    tensors: Mapping[str, NDArray],
    *,
    model: str = "",
    text: str = "",
    sequence_length: int | None = None,
    shared_inputs: Mapping[str, str] | None = None,
    shard_bytes: int | None = None,
    force: bool = False,
) -> list[Path]:
    """Write a dump of schema 1; return the files written.

    With `shard_bytes`, `path` is a folder: no file in it holds more bytes of tensors than that; inputs and outputs are
    cut between sequences, and ``dump.safetensors.index.json`` names the files of each tensor.

    Raises
    ------
    InputError
        If one sequence, or one weight, is larger than `shard_bytes`.
    ShapeError
        If an array has no dimension.
    """
    metadata = {"wncore.schema": "1", "wncore.model": model, "wncore.text": text}
    if sequence_length:
        metadata["wncore.sequence_length"] = str(sequence_length)
    if shared_inputs:
        metadata["wncore.shared_inputs"] = json.dumps(dict(shared_inputs))
    for name, array in tensors.items():
        if np.ndim(array) == 0:
            raise ShapeError(f"{name} has no dimension; a tensor of a dump has at least one")
    path = Path(path)
    if shard_bytes is None:
        write_tensors(path, tensors, metadata, force)
        return [path]
    return _write_shards(path, tensors, metadata, sequence_length or 1, shard_bytes, force)


def _write_shards(
    folder: Path,
    tensors: Mapping[str, NDArray],
    metadata: dict[str, str],
    sequence_length: int,
    shard_bytes: int,
    force: bool,
) -> list[Path]:
    shards: list[dict[str, NDArray]] = [{}]
    for name, array in tensors.items():
        for piece in _cut(name, array, sequence_length, shard_bytes):
            held = sum(other.nbytes for other in shards[-1].values())
            if shards[-1] and (name in shards[-1] or held + piece.nbytes > shard_bytes):
                shards.append({})
            shards[-1][name] = piece
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"dump-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    index = folder / "dump.safetensors.index.json"
    for path in [*paths, index]:
        check_output(path, force)
    where: dict[str, list[str]] = {}
    for path, shard in zip(paths, shards, strict=True):
        write_tensors(path, shard, metadata, force)
        for name in shard:
            where.setdefault(name, []).append(path.name)
    total = sum(array.nbytes for array in tensors.values())
    content = {"metadata": {**metadata, "total_size": total}, "weight_map": where}
    with replacing(index, force) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    return [*paths, index]


def _cut(name: str, array: NDArray, sequence_length: int, shard_bytes: int) -> list[NDArray]:
    if array.nbytes <= shard_bytes:
        return [array]
    unit = 1 if array.ndim > 2 else sequence_length  # a leading axis of sequences, or of tokens
    per_unit = array.nbytes // len(array) * unit
    if not name.endswith(TOKEN_TENSORS) or per_unit > shard_bytes:
        raise InputError(f"{name} does not fit into shards of {shard_bytes} bytes; it needs {per_unit}")
    count = -(-array.nbytes // (shard_bytes // per_unit * per_unit))
    units = -(-len(array) // unit)
    bounds = [min(len(array), units * i // count * unit) for i in range(count + 1)]
    bounds[-1] = len(array)
    return [array[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
