"""The layers of a block that has run, opened one after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from wncore.backend import Backend
from wncore.dumps.layer import Tokens, choose_tokens
from wncore.errors import InputError, TooFewTokensError
from wncore.failures import Fail
from wncore.layers.activations import Activations
from wncore.layers.sinks import count_sinks
from wncore.matrix import LinearLayer, Matrix
from wncore.tick import Tick
from wncore_torch.model.held import Collected, InMemory, matrix
from wncore_torch.model.linears import Linear
from wncore_torch.model.stream import Block
from wncore_torch.model.written import Spooled


@dataclass
class Opener:
    """Opens the layers of a block that has run."""

    block: Block
    collected: Collected
    store: InMemory | Spooled
    length: int
    backend: Backend
    skip_tokens: int
    skip_norm: float | None
    holdout: float
    memory: int
    tick: Tick
    starved: Fail
    _sinks: dict[str, int] = field(default_factory=dict)
    """Of inputs that were read whole, which layers share."""

    def open(self, layers: Sequence[Linear]) -> Iterator[Activations]:
        """Open one after the other; an input is held as long as a layer that reads it is to come."""
        inputs: dict[str, Matrix | None] = {}
        holders = [self.collected.holder[layer.name] for layer in layers]
        for i, (layer, holder) in enumerate(zip(layers, holders, strict=True)):
            if holder not in inputs:
                inputs[holder] = self.store.matrix(holder, "input")
            output = self.store.matrix(layer.name, "output")
            try:
                opened = self._open(layer, inputs[holder], output)
            except TooFewTokensError as error:
                self.starved(layer.name, error)
            else:
                yield opened
            if holder not in holders[i + 1 :]:
                inputs.pop(holder, None)

    def _open(self, layer: Linear, x: Matrix | None, y: Matrix | None) -> Activations:
        tokens, sinks = self._choose(layer)
        bias = self.block.bias(layer)
        parts = LinearLayer(
            layer.name,
            input=x,
            output=y,
            weight=matrix(f"{layer.name}.weight", self.block.stored_weight(layer)),
            bias=None if bias is None else matrix(f"{layer.name}.bias", bias[:, None]),
        )
        reading = {"skipped": self.skip_tokens, "holdout": self.holdout, "memory": self.memory}
        return Activations(parts, tokens, self.backend, **reading, tick=self.tick, sinks=sinks)

    def _choose(self, layer: Linear) -> tuple[Tokens, int]:
        """Say which tokens count, and how many are sinks."""
        holder = self.collected.holder[layer.name]
        if self.collected.reads_all(layer.name) and not layer.routed and self.skip_norm is None:
            tokens = self._demand_some(_every(self.collected.total, self.length, self.skip_tokens))
            if holder not in self._sinks:
                self._sinks[holder] = count_sinks(self.collected.norms(holder), tokens.keep)[0]
            return tokens, self._sinks[holder]
        told = self.collected.tokens(layer.name)
        if told is None and self.skip_tokens:
            raise InputError(
                f"{layer.name} hides which tokens it reads, so that --skip-tokens cannot be followed; leave the layer "
                f"out with --exclude"
            )
        norms = self.collected.norms(holder)
        counting = np.ones(len(norms), bool) if told is None else told % self.length >= self.skip_tokens
        sinks, keep = count_sinks(norms, counting, self.skip_norm)
        sequence = None  # an expert reads one here, one there
        if told is not None and not layer.routed and bool((np.diff(told) > 0).all()):
            sequence = told // self.length
        return self._demand_some(choose_tokens(keep, sequence)), sinks

    def _demand_some(self, tokens: Tokens) -> Tokens:
        if tokens.count < 2:
            raise TooFewTokensError(f"{tokens.count} of {self.collected.total} tokens")
        return tokens


@lru_cache(maxsize=1)
def _every(total: int, length: int, skip: int) -> Tokens:
    """Return all tokens but the first of each window: the same object for all layers, of which much is derived."""
    told = np.arange(total)
    return choose_tokens(told % length >= skip, told // length)
