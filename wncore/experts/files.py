"""Files of sparse experts (docs/dump-format.md): saved whole, loaded layer by layer."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wncore.dumps.header import LONGEST_NAME, read_header
from wncore.dumps.sources import is_index
from wncore.dumps.tensor import is_finite
from wncore.dumps.write import NAMES, write_tensors
from wncore.errors import DumpError, InputError, NonFiniteError, listed
from wncore.experts.digests import array_digest
from wncore.experts.document import KEY, SCHEMA, document_metadata, read_document, read_layers
from wncore.experts.experts import Experts
from wncore.experts.packing import pack
from wncore.experts.stored import StoredLayers, check_tensors
from wncore.files import release


@dataclass(frozen=True, eq=False)
class ExpertFile:
    """A file of experts: what it says of itself, and its layers by name, each read when it is asked for."""

    path: Path
    document: Mapping[str, Any]
    layers: StoredLayers


def save_experts(
    path: str | Path,
    layers: Sequence[Experts],
    document: Mapping[str, Any],
    packed: bool = False,
    force: bool = False,
) -> None:
    """Write experts and the document on them; it says for each of `layers`, in order, whose router it uses.

    Weights are stored with their zeros or, `packed`, as bit mask and values; a router that layers share is stored once.
    The document is completed: whether weights are packed, and the SHA-256 and the dtype of each tensor.

    Raises
    ------
    InputError
        If experts and document do not agree, or layers that share a router have different ones.
    NonFiniteError
        If a number is NaN or infinite.
    WncoreError
        As `write_tensors`.
    """
    path, described = Path(path), read_layers(Path(path), document)
    by_name = {layer.name: layer for layer in layers}
    if [layer.name for layer in layers] != list(described):
        raise InputError(
            f"{path}: the document is on {', '.join(described)}, and the experts are of "
            f"{', '.join(layer.name for layer in layers)}; describe every layer, in order"
        )
    tensors: dict[str, NDArray] = {}
    for layer in layers:
        tensors |= _weights(layer, packed)
        owner = by_name[described[layer.name].router]
        if owner is layer:
            tensors |= _router(layer)
        elif not _same(_router(owner), _router(layer)):
            raise InputError(
                f"{path}: {layer.name} is said to use the router of {owner.name}, and has another; "
                f"name itself as its router"
            )
    held = {name: (NAMES.get(array.dtype, str(array.dtype)), array.shape) for name, array in tensors.items()}
    check_tensors(path, described, packed, held)
    digests: dict[str, str] = {}
    for name, array in tensors.items():
        if len(name) > LONGEST_NAME:
            raise InputError(f"{path}: {name[:80]}... is a name of {len(name)} characters; {LONGEST_NAME} can be read")
        if not is_finite(array):
            raise NonFiniteError(f"{path}: {name} holds NaN or infinity; nothing was written, expand the layer again")
        digests[name] = array_digest(array)
        release(array)
    dtypes = {name: dtype for name, (dtype, _) in sorted(held.items())}
    complete = {**document, "packed": packed, "tensors": dict(sorted(digests.items())), "dtypes": dtypes}
    write_tensors(path, tensors, document_metadata(complete), force)


def load_experts(path: str | Path) -> ExpertFile:
    """Open a file of experts: read its header and document; a layer's tensors are read when it is asked for.

    Raises
    ------
    DumpError
        If the file is damaged, holds no experts, or its tensors are not those that its document describes.
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112  (Path.is_dir raises for odd names)
        there = listed(sorted(entry.name for entry in path.glob("*.safetensors")), most=3) or "none"
        raise DumpError(
            f"{path} is a folder, and experts are one file; name that which `wncore expand` wrote (.safetensors files "
            f"there: {there})"
        )
    header = read_header(path)
    document = read_document(header)
    described = read_layers(header.path, document)
    held = {name: (entry.dtype, entry.shape) for name, entry in header.tensors.items()}
    check_tensors(header.path, described, document["packed"], held)
    return ExpertFile(header.path, document, StoredLayers(header, described, document["packed"]))


def holds_experts(path: Path) -> bool:
    """Whether a path is that of one file, and the file one of experts.

    Raises
    ------
    DumpError
        If it is a damaged file.
    """
    if os.path.isdir(path) or is_index(path.name):  # noqa: PTH112  (Path.is_dir raises for odd names)
        return False
    return KEY in read_header(path).metadata


def describe(layers: Sequence[Experts]) -> dict[str, Any]:
    """Return the least document that experts can be saved with: no layer shares a router, and nothing is reported."""
    return {"schema": SCHEMA, "layers": [_describe(layer) for layer in layers]}


def _describe(layer: Experts) -> dict[str, Any]:
    k, *shape = layer.weights.shape
    counts = layer.counts.tolist()
    return {"name": layer.name, "shape": shape, "experts": k, "router": layer.name, "tokens_per_expert": counts}


def _weights(layer: Experts, packed: bool) -> dict[str, NDArray]:
    bias = {} if layer.bias is None else {f"{layer.name}.bias": layer.bias}
    if not packed:
        return {f"{layer.name}.experts": layer.weights} | bias
    mask, values = pack(layer.weights)
    return {f"{layer.name}.experts.mask": mask, f"{layer.name}.experts.values": values} | bias


def _router(layer: Experts) -> dict[str, NDArray]:
    parts = {name: getattr(layer.router, name) for name in ("mean", "components", "centroids")}
    return {f"{layer.name}.router.{part}": array for part, array in (parts | {"counts": layer.counts}).items()}


def _same(a: Mapping[str, NDArray], b: Mapping[str, NDArray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a.values(), b.values(), strict=True))
