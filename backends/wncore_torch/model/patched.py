"""A copy of a model's folder in which only the weights of some layers differ: what pruning writes.

The model is not saved anew: that drops one of two tied tensors, gives shards other names, writes no tokenizer, and can
fail after hours. Here every file is copied, and the bytes of a tensor are written where they lie.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from wncore.errors import InputError
from wncore_torch.model.folder import Folder
from wncore_torch.model.linears import Linear
from wncore_torch.model.names import unconvert
from wncore_torch.model.parameters import file_dtype


@dataclass(frozen=True)
class Change:
    """A tensor of the file that was written."""

    tensor: str
    layer: str
    zeros: int
    """How many of its numbers are zero now."""
    digest: str
    """SHA-256 of its bytes"""


class Patch:
    """Weights on their way into a copy of a folder: `folder` is copied to `copy`, a folder that is empty.

    Raises
    ------
    InputError
        If a layer's weights cannot be turned back into tensors of the file: before anything is copied.
    """

    def __init__(self, folder: Folder, layers: Iterable[Linear], copy: Path) -> None:
        self._folder, self._copy = folder, copy
        self.tensors = {layer.name: list(marked(folder, layer)) for layer in layers}
        self.changes: list[Change] = []
        for entry in sorted(folder.path.iterdir()):
            if entry.is_dir():
                shutil.copytree(entry, copy / entry.name)
            else:
                shutil.copyfile(entry, copy / entry.name)  # what a link of the hub's cache points to, not the link

    def write(self, layer: Linear, values: Mapping[str, Tensor]) -> None:
        """Write the weights of one layer; `values` are all parameters that are made together with its own.

        They are rounded to the dtype of the file. Of a tensor that holds other layers' weights, too, those stay.
        """
        source = self._folder.sources[layer.parameter]
        whole = {name: values[name].to(file_dtype(self._folder, name)) for name in source.parameters}
        made, marks = unconvert(self._folder.model, source, whole), marked(self._folder, layer)
        for tensor in self.tensors[layer.name]:
            stored = self._folder.stored[tensor]
            value, own = made[tensor].to(stored.dtype).cpu().contiguous(), marks[tensor]
            with (self._copy / stored.file.name).open("r+b") as file:
                if not bool(own.all()):
                    file.seek(stored.begin)
                    there = bytearray(file.read(stored.end - stored.begin))
                    value = torch.where(own, value, torch.frombuffer(there, dtype=stored.dtype).reshape(stored.shape))
                data = value.flatten().view(torch.uint8).numpy().tobytes()
                file.seek(stored.begin)
                file.write(data)
            zeros = int(((value == 0) & own).sum())
            self.changes.append(Change(tensor, layer.name, zeros, sha256(data).hexdigest()))


def marked(folder: Folder, layer: Linear) -> dict[str, Tensor]:
    """Return which numbers of the file are a layer's weights: bool tensors, by the names of the file.

    Found by sending marks through the way back: the layer's weights are True, all others False.

    Raises
    ------
    InputError
        If the way back is not known, or leads elsewhere.
    """
    source = folder.sources[layer.parameter]
    marks = {name: torch.zeros(folder.model.get_parameter(name).shape, dtype=torch.bool) for name in source.parameters}
    layer.weight_of(marks[layer.parameter])[:] = True
    try:
        back = unconvert(folder.model, source, marks)
    except Exception as error:  # a converter is code of transformers, and may fail in any way
        raise _no_way_back(folder, layer, str(error)) from error
    found = {name: mark for name, mark in back.items() if bool(mark.any())}
    if sum(int(mark.sum()) for mark in found.values()) != layer.shape[0] * layer.shape[1]:
        raise _no_way_back(folder, layer, "some of its weights are in no tensor")
    if odd := [name for name, mark in found.items() if mark.shape != folder.stored[name].shape]:
        raise _no_way_back(folder, layer, f"{odd[0]} would have the shape {tuple(found[odd[0]].shape)}")
    return found


def _no_way_back(folder: Folder, layer: Linear, reason: str) -> InputError:
    names = ", ".join(name for name, _ in folder.sources[layer.parameter].tensors[:2])
    return InputError(
        f"the weights of {layer.name} cannot be turned back into {names} of {folder.path}: {reason}; leave the layer "
        f"out with --exclude"
    )
