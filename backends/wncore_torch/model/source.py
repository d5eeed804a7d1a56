"""A language model and a text, as an owner of activations: layer by layer, block by block, in one pass each.

A block runs once on all windows; what its layers give is held, and they are handed out, opened, while its weights are
in memory. Then the next block runs.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from wncore.backend import Backend
from wncore.dumps.layer import choose_tokens
from wncore.errors import InputError, TooFewTokensError
from wncore.failures import NO_FAULT, Fail
from wncore.layers.activations import Activations
from wncore.layers.sinks import count_sinks
from wncore.matrix import LinearLayer, Matrix
from wncore.tick import Tick, idle
from wncore_torch.model.folder import Folder
from wncore_torch.model.held import Collected, matrix
from wncore_torch.model.linears import Linear, Linears
from wncore_torch.model.recording import Batch
from wncore_torch.model.stream import Block, Read, Stream


@dataclass(frozen=True, eq=False)
class ModelSource:
    """A model, its linear layers, and the windows (w, l) of a text that it reads, `batch` of them at a time."""

    folder: Folder
    linears: Linears
    windows: Tensor
    batch: int = 4

    @property
    def tokens(self) -> int:
        """How many tokens the text has, in all windows."""
        return self.windows.numel()

    @property
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

    def coverage(self, chosen: Collection[str]) -> float:
        """Return the share of the blocks' parameters of two or more axes that are weights of the chosen layers."""
        sizes = [m * d for name, layer in self.layers.items() if name in chosen for m, d in [layer.shape]]
        return sum(sizes) / max(1, self.linears.parameters)

    def activations(
        self,
        chosen: Collection[str],
        backend: Backend,
        *,
        parts: Collection[str] = ("input", "output"),
        skip_tokens: int = 0,
        skip_norm: float | None = None,
        memory: int = 2**30,
        tick: Tick = idle,
        starved: Fail = NO_FAULT,
    ) -> Iterator[Activations]:
        """Yield the chosen layers in the order in which they run; what was yielded before is let go of.

        Of `parts`, inputs and outputs, what is wanted is held. `skip_tokens` and `skip_norm` leave out the first tokens
        of every window, and those whose input is so many times longer than the median. Of a layer with fewer than 2
        tokens, an expert that the router sends nothing, `starved` is told.
        """
        stream = Stream(self.folder, [Batch(ids) for ids in self.windows.split(self.batch)], self.linears)
        starts = [0, *np.cumsum([one.batch.ids.numel() for one in stream.recorded]).tolist()]
        wanted = set(chosen)
        for block in stream.blocks():
            layers = [layer for layer in block.layers if layer.name in wanted]
            if not layers:
                continue
            collected = Collected(layers, parts, starts, self.folder.device)

            def meet(read: Read, collected: Collected = collected) -> None:
                collected.take(read)
                tick(0)

            block.hand_on(meet, {layer.name for layer in layers})
            length = self.windows.shape[1]
            opener = _Opener(block, collected, length, backend, skip_tokens, skip_norm, memory, tick, starved)
            yield from opener.open(layers)


@dataclass
class _Opener:
    """Opens the layers of a block that has run."""

    block: Block
    collected: Collected
    length: int
    backend: Backend
    skip_tokens: int
    skip_norm: float | None
    memory: int
    tick: Tick
    starved: Fail

    def open(self, layers: Sequence[Linear]) -> Iterator[Activations]:
        """Open one after the other; an input is held as long as a layer that reads it is to come."""
        inputs: dict[str, Matrix | None] = {}
        holders = [self.collected.holder[layer.name] for layer in layers]
        for i, (layer, holder) in enumerate(zip(layers, holders, strict=True)):
            if holder not in inputs:
                inputs[holder] = self.collected.matrix(holder, "input")
            output = self.collected.matrix(layer.name, "output")
            try:
                opened = self._open(layer, inputs[holder], output)
            except TooFewTokensError as error:
                self.starved(layer.name, error)
            else:
                yield opened
            if holder not in holders[i + 1 :]:
                inputs.pop(holder, None)

    def _open(self, layer: Linear, x: Matrix | None, y: Matrix | None) -> Activations:
        told, norms = self.collected.tokens(layer.name), self.collected.norms(layer.name)
        if told is None and self.skip_tokens:
            raise InputError(
                f"{layer.name} hides which tokens it reads, so that --skip-tokens cannot be followed; leave the layer "
                f"out with --exclude"
            )
        counting = np.ones(len(norms), bool) if told is None else told % self.length >= self.skip_tokens
        sinks, keep = count_sinks(norms, counting, self.skip_norm)
        if keep.sum() < 2:
            raise TooFewTokensError(f"{keep.sum()} of {self.collected.total} tokens")
        sequence = None if told is None or layer.expert is not None else told // self.length  # an expert reads bits
        bias = self.block.bias(layer)
        parts = LinearLayer(
            layer.name,
            input=x,
            output=y,
            weight=matrix(f"{layer.name}.weight", self.block.weight(layer)),
            bias=None if bias is None else matrix(f"{layer.name}.bias", bias[:, None]),
        )
        tokens = choose_tokens(keep, sequence)
        reading = {"skipped": self.skip_tokens, "memory": self.memory, "tick": self.tick, "sinks": sinks}
        return Activations(parts, tokens, self.backend, **reading)
