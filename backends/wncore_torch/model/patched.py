"""A copy of a model's folder in which only the weights of some layers differ: what pruning writes.

The model is not saved anew: that drops one of two tied tensors, gives shards other names, writes no tokenizer, and can
fail after hours. Here every file is copied, and the bytes of a tensor are written where they lie.
"""

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from wncore.errors import InputError
from wncore_torch.model.folder import Folder
from wncore_torch.model.linears import Linear
from wncore_torch.model.names import Source, unconvert
from wncore_torch.model.parameters import file_dtype


@dataclass(frozen=True)
class Change:
    """A tensor of the file that was written."""

    tensor: str
    layers: tuple[str, ...]
    """whose weights are in it, and were written"""
    zeros: int
    """how many of them are zero now"""
    digest: str
    """SHA-256 of the tensor's bytes"""


def check_way_back(folder: Folder, layers: Collection[Linear]) -> None:
    """Raise unless the weights of layers can be written into a copy of the folder; opens no file.

    Raises
    ------
    InputError
        If a layer's weights cannot be turned back into tensors of the file, or are those of another layer, too.
    """
    for source, own in _by_source(folder, layers):
        tie = next((tie for tie in folder.ties if own[0].parameter in tie), None)
        if tie is not None:
            raise InputError(f"{own[0].name} is one with {', '.join(tie)}; leave it out with --exclude {own[0].name}")
        if source.converter is not None:
            _back(folder, source, own, dict.fromkeys(own))


class Patch:
    """Weights on their way into a copy of a folder: `folder` is copied to `copy`, a folder that is empty."""

    def __init__(self, folder: Folder, copy: Path) -> None:
        self._folder, self._copy = folder, copy
        self.changes: list[Change] = []
        for entry in sorted(folder.path.iterdir()):
            if entry.is_dir():
                shutil.copytree(entry, copy / entry.name)
            else:
                shutil.copyfile(entry, copy / entry.name)  # what a link of the hub's cache points to, not the link

    def write(self, weights: Mapping[Linear, Tensor]) -> None:
        """Write the weights (m, d) of some layers, in the dtype of the file; each layer may be written once.

        Of a tensor that holds other layers' weights, too, those stay as they are.

        Raises
        ------
        InputError
            As `check_way_back`.
        """
        for source, layers in _by_source(self._folder, weights):
            for tensor, (value, marks) in _back(self._folder, source, layers, weights).items():
                counts = marks.flatten().bincount(minlength=len(layers) + 1)[1:].tolist()
                there = [layer.name for layer, count in zip(layers, counts, strict=True) if count]
                self._write(tensor, value, marks != 0, there)

    def _write(self, tensor: str, value: Tensor, own: Tensor, layers: Collection[str]) -> None:
        stored = self._folder.stored[tensor]
        with (self._copy / stored.file.name).open("r+b") as file:
            if not bool(own.all()):
                file.seek(stored.begin)
                there = torch.frombuffer(bytearray(file.read(stored.end - stored.begin)), dtype=stored.dtype)
                value = torch.where(own, value, there.reshape(stored.shape))
            data = value.contiguous().flatten().view(torch.uint8).numpy().data
            file.seek(stored.begin)
            file.write(data)
        zeros = int(((value == 0) & own).sum())
        self.changes.append(Change(tensor, tuple(layers), zeros, sha256(data).hexdigest()))


def _by_source(folder: Folder, layers: Collection[Linear]) -> Iterator[tuple[Source, list[Linear]]]:
    """Yield what parameters are made of, each with the layers whose weights it makes."""
    found: dict[int, list[Linear]] = {}
    for layer in layers:
        found.setdefault(id(folder.sources[layer.parameter]), []).append(layer)
    for own in found.values():
        yield folder.sources[own[0].parameter], own


def _back(
    folder: Folder, source: Source, layers: list[Linear], weights: Mapping[Linear, Tensor | None]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Turn weights back into tensors of the file: by their names there, each with whose weight each of its numbers is.

    That is 1 for the first layer, 2 for the second, 0 for no layer's, found by sending such marks the same way. Without
    weights their place is all that is looked for.
    """
    shapes = {name: folder.model.get_parameter(name).shape for name in source.parameters}
    values = {name: torch.zeros(shape, dtype=file_dtype(folder, name)) for name, shape in shapes.items()}
    marks = {name: torch.zeros(shape, dtype=torch.int32) for name, shape in shapes.items()}
    for number, layer in enumerate(layers, 1):
        layer.weight_of(marks[layer.parameter])[:] = number
        weight = weights[layer]
        if weight is not None:
            layer.weight_of(values[layer.parameter])[:] = weight.to(values[layer.parameter].dtype).cpu()
    try:
        back = {name: mark for name, mark in unconvert(folder.model, source, marks).items() if bool(mark.any())}
        made = unconvert(folder.model, source, values)
    except Exception as error:  # a converter is code of transformers, and may fail in any way
        raise _no_way_back(folder, layers[0], str(error)) from error
    if sum(int(mark.count_nonzero()) for mark in back.values()) != sum(
        layer.shape[0] * layer.shape[1] for layer in layers
    ):
        raise _no_way_back(folder, layers[0], "some of its weights are in no tensor")
    if odd := [name for name, mark in back.items() if mark.shape != folder.stored[name].shape]:
        raise _no_way_back(folder, layers[0], f"{odd[0]} would have the shape {tuple(back[odd[0]].shape)}")
    return {name: (made[name].to(folder.stored[name].dtype), mark) for name, mark in back.items()}


def _no_way_back(folder: Folder, layer: Linear, reason: str) -> InputError:
    names = ", ".join(name for name, _ in folder.sources[layer.parameter].tensors[:2])
    return InputError(
        f"the weights of {layer.name} cannot be turned back into {names} of {folder.path}: {reason}; leave the layer "
        f"out with --exclude"
    )
