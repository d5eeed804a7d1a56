"""Fingerprints of tensors: SHA-256 of the bytes that safetensors stores, little endian, row by row."""

from collections.abc import Iterable
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from wncore.dumps.layer import Layer
from wncore.dumps.tensor import CHUNK, Tensor
from wncore.tick import Tick, idle


def array_digest(array: NDArray) -> str:
    """Return the fingerprint of an array as it would be stored.

    >>> array_digest(np.zeros(0)) == sha256(b"").hexdigest()
    True
    """
    stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return sha256(stored.reshape(-1).view(np.uint8).data).hexdigest()


def tensor_digest(tensor: Tensor, tick: Tick = idle) -> str:
    """Return the fingerprint of a tensor on the disk, all its pieces, read a few megabytes at a time."""
    state = sha256()
    for rows in tensor.chunks(tensor.columns * tensor.itemsize, CHUNK):
        state.update(tensor.read(rows).reshape(-1).view(np.uint8).data)
        tick(0)
    return state.hexdigest()


def source_tensors(layer: Layer) -> dict[str, Tensor]:
    """Return what a layer's experts are made from, by name: input, weight, bias and mask.

    The mask is told apart by its layer, ``{layer}.tokens.mask``: each file of a dump may have its own.
    """
    named = {tensor.name: tensor for tensor in (layer.input, layer.weight, layer.bias) if tensor is not None}
    return named if layer.mask is None else named | {f"{layer.name}.{layer.mask.name}": layer.mask}


def source_digests(layers: Iterable[Layer], tick: Tick = idle) -> dict[str, str]:
    """Return the fingerprints of what the experts of all layers are made from; a shared tensor is read once."""
    found: dict[str, str] = {}
    for layer in layers:
        for name, tensor in source_tensors(layer).items():
            found[name] = found.get(name) or tensor_digest(tensor, tick)
    return found
