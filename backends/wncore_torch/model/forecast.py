"""The memory that a pass over a model takes at its peak, foretold from headers and shapes; no weight is read.

Parameters are counted exactly. What a block holds while it runs is a rule of thumb, `running`: numbers a token, by the
widths of its matrices, which was measured on gated blocks (Llama's) and is a little too much for others.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch

from wncore.resources import Memory
from wncore_torch.model.blocks import find_blocks, names_around
from wncore_torch.model.folder import Folder
from wncore_torch.model.parameters import dtype_of, names_below

WIDE, NARROW = 3, 4
"""What a block holds at once for a token: numbers as wide as its widest matrix, and as the hidden state."""


LIBRARIES = 2**22
"""Bytes that torch and the allocator take beside what they are asked for, as measured on small models."""
SMALL = 48
"""Bytes a token of the windows themselves: ids, targets, losses, and the sum of those in float64."""


@dataclass(frozen=True)
class Load:
    """What parameters take while they are read, and as long as they are in memory."""

    reading: Memory
    held: Memory

    def __or__(self, other: "Load") -> "Load":
        """Have one or the other in memory."""
        return Load(self.reading | other.reading, self.held | other.held)


def load_of(folder: Folder, names: Iterable[str]) -> Load:
    """Return what parameters take, each of those that are tied once.

    Files are mapped, and on the host a parameter that is as it lies in the file *is* the file's memory; another one is
    made beside it. The file is let go of when all are read.
    """
    twins = {name: tie[0] for tie in folder.ties for name in tie}
    sources = {id(folder.sources[one]): folder.sources[one] for one in {twins.get(name, name): 0 for name in names}}
    file = made = shared = single = 0
    for source in sources.values():
        stored = [folder.stored[name] for name, _ in source.tensors]
        size = sum(one.end - one.begin for one in stored)
        new = sum(_size(folder, name) for name in source.parameters)
        file += size
        made += new
        if source.converter is None and stored[0].dtype == dtype_of(folder, source.key):
            shared += size
        else:
            single = max(single, size)
    if folder.device.type != "cpu":  # from pages that stay in place, which torch keeps for the next time
        return Load(reading=Memory(2 * file, made + single), held=Memory(file, made))
    return Load(reading=Memory(file + made - shared), held=Memory(made))


def _size(folder: Folder, name: str) -> int:
    return prod(folder.model.get_parameter(name).shape) * dtype_of(folder, name).itemsize


def on_device(folder: Folder, size: int) -> Memory:
    """Return bytes where the folder's device is, which may be the host."""
    return Memory(size) if folder.device.type == "cpu" else Memory(0, size)


def heaviest_block(folder: Folder) -> Load:
    """Return the most that a block's parameters take."""
    path, blocks = find_blocks(folder.model)
    most = Load(Memory(), Memory())
    for index in range(len(blocks)):
        most |= load_of(folder, names_below(folder.model, f"{path}.{index}"))
    return most


def running(folder: Folder, batch: int, length: int) -> Memory:
    """Return what a block holds beside its weights while a batch goes through it."""
    _, blocks = find_blocks(folder.model)
    shapes = [parameter.shape for parameter in blocks.parameters() if parameter.ndim > 1]
    widest = max((max(shape[-2:]) for shape in shapes), default=0)
    config = folder.model.config.get_text_config()
    size, numbers = folder.dtype.itemsize, NARROW * config.hidden_size + WIDE * widest
    if getattr(config, "_attn_implementation", None) == "eager":  # scores before and after the softmax, in float32
        numbers = max(numbers, NARROW * config.hidden_size + 2 * config.num_attention_heads * length)
        size = max(size, 4)
    return on_device(folder, batch * length * numbers * size)


def beside(tokens: int) -> Memory:
    """Return what any pass over so many tokens takes beside the model."""
    return Memory(LIBRARIES + SMALL * tokens)


def waiting(folder: Folder, tokens: int, place: torch.device) -> Memory:
    """Return what hidden states take where they wait."""
    size = tokens * folder.model.config.get_text_config().hidden_size * folder.dtype.itemsize
    return Memory(size) if place.type == "cpu" else Memory(0, size)


def logits(folder: Folder, cells: int) -> Memory:
    """Return what so many logits and their losses take: as the head gives them, in float32, as log-probabilities."""
    wide = 2 if folder.dtype == torch.float32 else 3
    size = folder.dtype.itemsize + 4 * (wide - 1)
    return on_device(folder, cells * size)


def streaming(folder: Folder, tokens: int, batch: int, length: int, place: torch.device) -> Memory:
    """Return the peak of recording and of running the blocks, one after the other, on tokens in batches of windows."""
    around, block = load_of(folder, names_around(folder, head=False)), heaviest_block(folder)
    hidden, run = waiting(folder, tokens, place), running(folder, batch, length)
    ahead = Memory(0, block.held.device)  # the next block is read while one runs
    one = block.reading + ahead | block.held + run + ahead
    recording = around.reading | around.held + (hidden | one)
    return recording | hidden + one
