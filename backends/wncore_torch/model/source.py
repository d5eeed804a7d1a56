"""A language model and a text, as an owner of activations: layer by layer, block by block, in one pass each.

A block runs once on all windows; what its layers give is held, and they are handed out, opened, while its weights are
in memory. Then the next block runs.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wncore.backend import Backend
from wncore.dumps.stream import Shapes
from wncore.effort import Step
from wncore.errors import listed
from wncore.failures import Fail, forgive
from wncore.layers.activations import Activations
from wncore.resources import LARGER, Memory, give_back_at_once
from wncore.sources import Order
from wncore.tick import Tick, idle
from wncore_torch.model import forecast
from wncore_torch.model.capture import Captured, capture, check_folder
from wncore_torch.model.effort import forward_effort, trial_layer
from wncore_torch.model.folder import Folder
from wncore_torch.model.held import Collected, InMemory
from wncore_torch.model.linears import Linear, Linears, numberless
from wncore_torch.model.memory import begin_measuring, peak, room
from wncore_torch.model.opened import Opener
from wncore_torch.model.prune import Replacing
from wncore_torch.model.recording import Batch
from wncore_torch.model.stream import Block, Read, Stream
from wncore_torch.model.written import Counts, Spooled, count_rows, layout, size_of, spooled


def _stages(layers: Sequence[Linear], order: Order) -> list[list[Linear]]:
    """Cut the layers of a block into those that are read in one pass; experts of a kind are read together."""
    stages: dict[str, list[Linear]] = {}
    for layer in layers:
        stages.setdefault(numberless(layer.reads) if order == "sequential" else "", []).append(layer)
    return list(stages.values())


@dataclass(eq=False)
class ModelSource:
    """A model, its linear layers, and the windows (w, l) of a text that it reads, `batch` of them at a time."""

    folder: Folder
    linears: Linears
    windows: Tensor
    text: Path
    batch: int = 4

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Let peaks begin anew: what is in use now was there before."""
        self.base = begin_measuring(self.folder.device)
        self.predicted = self.base

    def measured(self) -> Memory:
        """Return the peak since this was opened."""
        return peak(self.folder.device)

    def foretell(
        self, chosen: Collection[str], parts: Collection[str], state: int, memory: int | None = None
    ) -> Memory:
        """Foretell the peak, which `predicted` is from then on: with activations held within `memory`, None: written.

        `state` is what a verb holds beside them.
        """
        folder, (count, length), chosen = self.folder, self.windows.shape, set(chosen)
        blocks = forecast.streaming(folder, self.tokens, min(self.batch, count), length, folder.device)
        held = 0 if memory is None else max(self._held(chosen, parts, index) for index in range(self.linears.blocks))
        if memory is not None and folder.device.type == "cpu" and held > memory // 2:
            held = 0
        block = forecast.heaviest_block(folder).held + forecast.waiting(folder, self.tokens, folder.device)
        run = forecast.running(folder, min(self.batch, count), length) | forecast.on_device(folder, state)
        after = block + forecast.on_device(folder, held) + run
        self.predicted = self.base + (blocks | after) + forecast.beside(self.tokens)
        return self.predicted

    def effort(self) -> list[Step]:
        """Foretell the time of a forward of the windows, by trials of a moment."""
        count, length = self.windows.shape
        return forward_effort(self.folder, self.tokens, min(self.batch, count), length)

    def trial(self, backend: Backend, rows: int, neurons: int, inputs: int) -> Activations:
        """Return a layer of random numbers where those of the model will be, in its dtype."""
        return trial_layer(self.folder, backend, rows, neurons, inputs)

    def layout(self, layers: Sequence[Linear], parts: Collection[str], counts: Counts | None = None) -> Shapes:
        """Return the tensors that a dump of some layers has: `wncore_torch.model.written.layout`."""
        count, length = self.windows.shape
        return layout(self.folder, layers, parts, (count, length), counts or {})

    def _held(self, chosen: Collection[str], parts: Collection[str], index: int) -> int:
        """Return the bytes that a block's chosen layers read and give."""
        return size_of(self.layout([layer for layer in self.linears.of_block(index) if layer.name in chosen], parts))

    @property
    def tokens(self) -> int:
        """How many tokens the text has, in all windows."""
        return self.windows.numel()

    @cached_property
    def layers(self) -> dict[str, Linear]:
        """The linear layers by name."""
        return {layer.name: layer for layer in self.linears.layers}

    @property
    def groups(self) -> dict[str, list[str]]:
        """What stands for several layers: those of attention modules, all others (the MLP), all."""
        return {
            "mlp": [layer.name for layer in self.linears.layers if not layer.attention],
            "attention": [layer.name for layer in self.linears.layers if layer.attention],
            "all": [layer.name for layer in self.linears.layers],
        }

    @property
    def device(self) -> str:
        """Where the model runs, as torch names devices."""
        return str(self.folder.device)

    def described(self, chosen: Collection[str]) -> dict[str, Any]:
        """Return what a document says of the model, the text, and the share of the parameters that is looked at."""
        count, length = self.windows.shape
        return {
            "text": str(self.text),
            "windows": count,
            "length": length,
            "dtype": self.folder.computed_in,
            "batch": self.batch,
            "device": self.device,
            "coverage": self.coverage(chosen),
            "uncovered": list(self.linears.uncovered),
        }

    def notes(self) -> list[str]:
        """Say what is not looked at: parameters that no product was seen with."""
        left = self.linears.uncovered
        return [f"{len(left)} parameters are of no linear layer that runs: {listed(left)}"] if left else []

    def coverage(self, chosen: Collection[str]) -> float:
        """Return the share of the blocks' parameters of two or more axes that are weights of the chosen layers."""
        return sum(prod(self.layers[name].shape) for name in chosen) / max(1, self.linears.parameters)

    def activations(
        self,
        chosen: Collection[str],
        backend: Backend,
        *,
        parts: Collection[str] = ("input", "output"),
        skip_tokens: int = 0,
        skip_norm: float | None = None,
        holdout: float = 0.1,
        memory: int = 2**30,
        tick: Tick = idle,
        starved: Fail = forgive,
        order: Order = "dense",
        finished: Callable[[Block], object] = lambda _: None,
    ) -> Iterator[Activations]:
        """Yield the chosen layers in the order in which they run; what was yielded before is let go of.

        Of `parts`, inputs and outputs, what is wanted is held. `skip_tokens` and `skip_norm` leave out the first tokens
        of every window, and those whose input is so many times longer than the median. Of a layer with fewer than 2
        tokens, an expert that the router sends nothing, `starved` is told.

        Whoever changes weights between two layers says by `order` who feels it: nobody; layers of later blocks; layers
        that run later. `finished` is told of each block, when its layers are done and its weights still in memory.
        """
        give_back_at_once(LARGER)
        stream, starts = self.start()
        wanted, length = set(chosen), self.windows.shape[1]
        for block in stream.blocks():
            for layers in _stages([layer for layer in block.layers if layer.name in wanted], order):
                with self._store(block, layers, parts, memory, starts) as store:
                    collected = Collected(layers, parts, starts, store)

                    def meet(read: Read, collected: Collected = collected) -> None:
                        collected.take(read)
                        tick(0)

                    run = block.hand_on if order == "dense" else block.run
                    run(meet, {layer.name for layer in layers})
                    free = room(self.folder.device)  # nothing that comes out depends on it
                    within = memory if free is None else max(memory, free // 2)
                    reading = length, backend, skip_tokens, skip_norm, holdout, within, tick, starved
                    yield from Opener(block, collected, store, *reading).open(layers)
            if order == "dense" and not block.handed_on:  # before its weights may be changed
                block.hand_on()
            finished(block)

    def bytes_captured(self, chosen: Collection[str], parts: Collection[str]) -> int:
        """Return the bytes that `capture` writes; of experts, which read what a router sends, at most."""
        return size_of(self.layout([self.layers[name] for name in chosen], parts))

    def check_capture(self, output: Path, needed: int) -> None:
        """Raise before the work what `capture` would raise after it: `wncore_torch.model.capture.check_folder`."""
        check_folder(output, needed)

    def capture(self, chosen: Collection[str], output: Path, **options: Any) -> Captured:
        """Write a dump: `wncore_torch.model.capture.capture`."""
        return capture(self, chosen, output, **options)

    def replacing(self, chosen: Collection[str], **options: Any) -> Replacing:
        """Get ready to give layers other weights: `wncore_torch.model.prune.Replacing`."""
        return Replacing(self, chosen, **options)

    def start(self) -> tuple[Stream, list[int]]:
        """Put the windows in front of the first block; returns also the number of the first token of each batch."""
        stream = Stream(self.folder, [Batch(ids) for ids in self.windows.split(self.batch)], self.linears)
        return stream, [0, *np.cumsum([one.batch.ids.numel() for one in stream.recorded]).tolist()]

    @contextmanager
    def _store(
        self, block: Block, layers: Sequence[Linear], parts: Collection[str], memory: int, starts: list[int]
    ) -> Iterator[InMemory | Spooled]:
        """Keep a block's activations on the device if half of it has room, in half of `memory`, or on the disk."""
        size, free = size_of(self.layout(layers, parts)), room(self.folder.device)
        if free is not None and size <= free // 2:
            yield InMemory(self.tokens, self.folder.device)
        elif size <= memory // 2:
            yield InMemory(self.tokens, torch.device("cpu"))
        else:
            counts = count_rows(block, layers)
            with spooled(self.layout(layers, parts, counts), counts, starts, self.windows.shape[1]) as store:
                yield store
