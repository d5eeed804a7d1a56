"""Hidden states on their way through a model, block by block: the weights of one block are in memory at a time.

    for block in Stream(folder, batches, layers).blocks():
        block.hand_on(reads)      # one pass: what the layers read, and on to the next block
    for block in stream.blocks():
        block.run(reads)          # two passes: first what the layers read,
        ...                       # then other weights, by `block.weight(layer)`,
                                  # and a block that was not handed on by then is, without `reads`

`reads` is called for each product of a layer, once it is computed, with a `Read`. Hidden states wait at `place`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wncore.errors import InputError
from wncore.resources import give_back
from wncore_torch.model.blocks import find_blocks, surroundings_loaded
from wncore_torch.model.folder import Folder
from wncore_torch.model.linears import Linear, Linears, name_of
from wncore_torch.model.parameters import file_dtype, loaded, names_below, read_stored, reading_ahead
from wncore_torch.model.positions import Positions
from wncore_torch.model.products import Product, Watch, parameters_of
from wncore_torch.model.recording import Batch, Form, Recorded, call_block, forward, record, replaced


@dataclass(frozen=True, eq=False)
class Read:
    """What a layer reads and gives in one batch; padding is left out."""

    layer: Linear
    batch: int
    x: Tensor
    """(n, d) on the folder's device; to be used up before the callback returns, as y"""
    y: Tensor
    """(n, m), with the bias"""
    tokens: Tensor | None
    """(n,) int64: which tokens of the batch, counted through its sequences (b, l); None where the model hides it"""


Reads = Callable[[Read], object]


class Stream:
    """Batches in front of a model's first block, or wherever `blocks` has brought them.

    `layers` are the model's, as `find_linears` lists them; a stream that nobody watches needs none. `place` is where
    hidden states wait, the folder's device by default; the host's memory is larger.

    Raises
    ------
    NotStreamable
        If the blocks need more of each other than one hidden state.
    InputError
        If a batch has ids that the model does not know.
    """

    def __init__(
        self,
        folder: Folder,
        batches: Sequence[Batch],
        layers: Linears | None = None,
        place: str | torch.device | None = None,
    ) -> None:
        for batch in batches:
            if batch.ids.numel() and not 0 <= int(batch.ids.min()) <= int(batch.ids.max()) < folder.vocabulary:
                raise InputError(
                    f"the text has token {int(batch.ids.max())}, and {folder.path} knows {folder.vocabulary} of them; "
                    f"use the tokenizer of the model"
                )
        self.folder, self.layers = folder, layers
        self.path, self._blocks = find_blocks(folder.model)
        self.recorded, self._forms = record(folder, batches, torch.device(place or folder.device))

    def __len__(self) -> int:
        """Return how many blocks there are."""
        return len(self._blocks)

    def blocks(self) -> Iterator["Block"]:
        """Yield each block while its weights are in memory; hidden states have passed it when the next is asked for."""
        names = [names_below(self.folder.model, f"{self.path}.{index}") for index in range(len(self._blocks))]
        with reading_ahead(self.folder, names) as read:
            for index, module in enumerate(self._blocks):
                with loaded(self.folder, names[index], read(index)):
                    block = Block(self, index, module)
                    yield block
                    if not block.handed_on:
                        block.hand_on()
                give_back()

    def logits(self, rows: int) -> Iterator[tuple[int, int, Tensor]]:
        """Yield the batch, the first position, and logits (b, c, v) of c positions, after the last block.

        The model's own forward is run on a few positions at a time, its blocks giving what was streamed, so that final
        norm, projections and soft caps are its own; about `rows` rows (b c) of the vocabulary's size are in memory.
        """
        given: list[Tensor] = []

        def handing(form: Form) -> Callable[..., Any]:
            return lambda *_, **__: form(given[-1])

        hands = [handing(self._forms[type(block)]) for block in self._blocks]
        with torch.no_grad(), surroundings_loaded(self.folder, head=True), replaced(self._blocks, hands):
            for number, one in enumerate(self.recorded):
                count, length = one.batch.ids.shape
                step = max(1, rows // count)
                for begin in range(0, length, step):
                    positions = slice(begin, begin + step)
                    given[:] = [one.hidden[:, positions].to(self.folder.device)]
                    yield number, begin, forward(self.folder, Batch(one.batch.ids[:, positions])).logits


class Block:
    """One block of a model, its weights in memory."""

    def __init__(self, stream: Stream, index: int, module: nn.Module) -> None:
        self.index, self.name, self.module = index, f"{stream.path}.{index}", module
        self.layers = stream.layers.of_block(index) if stream.layers is not None else ()
        self.handed_on = False
        self._stream = stream

    def weight(self, layer: Linear) -> Tensor:
        """Return a layer's weight (m, d), a view of what the block runs with."""
        return layer.weight_of(self._stream.folder.model.get_parameter(layer.parameter))

    def stored_weight(self, layer: Linear) -> Tensor:
        """Return a layer's weight (m, d) as the file has it; read again, if the forward's dtype does not hold it."""
        folder, own = self._stream.folder, self.weight(layer)
        dtype = file_dtype(folder, layer.parameter)
        if own.dtype == dtype or own.itemsize > dtype.itemsize:
            return own.to(dtype)
        return layer.weight_of(read_stored(folder, layer.parameter))

    def bias(self, layer: Linear) -> Tensor | None:
        """Return a layer's bias (m,), or None if it has none."""
        if layer.bias is None:
            return None
        return layer.bias_of(self._stream.folder.model.get_parameter(layer.bias))

    def run(self, reads: Reads | None = None, only: Collection[str] | None = None) -> dict[str, int]:
        """Run the block on all batches, and drop what it gives; the arguments and the result are those of `hand_on`."""
        return self._pass(reads, only, hand_on=False)

    def hand_on(self, reads: Reads | None = None, only: Collection[str] | None = None) -> dict[str, int]:
        """Run the block on all batches, and put what it gives in the place of the hidden states.

        Returns the rows that each of the block's layers read, or each of `only`; an expert without tokens has 0.
        Without `reads` nothing is watched, and the result is empty.

        Raises
        ------
        InputError
            If padding cannot be told from tokens in what a layer reads.
        """
        if self.handed_on:
            raise ValueError(f"{self.name} was handed on already")
        result = self._pass(reads, only, hand_on=True)
        self.handed_on = True
        return result

    @torch.no_grad()
    def _pass(self, reads: Reads | None, only: Collection[str] | None, hand_on: bool) -> dict[str, int]:
        chosen = {layer.name: layer for layer in self.layers if only is None or layer.name in only}
        rows = dict.fromkeys(chosen if reads is not None else (), 0)
        for number, one in enumerate(self._stream.recorded):
            watch: Any = nullcontext()
            if reads is not None:
                watch = self._watch(number, one, chosen, rows, reads)
            hidden = one.hidden.to(self._stream.folder.device)
            with watch:
                output = call_block(self.module, one.calls[self.index], hidden)
            if hand_on:
                one.hidden = (output if isinstance(output, Tensor) else output[0]).to(one.hidden.device)
        return rows

    def _watch(
        self, number: int, one: Recorded, chosen: dict[str, Linear], rows: dict[str, int], reads: Reads
    ) -> Watch:
        known = {layer.name for layer in self.layers}
        positions = Positions(one.batch.ids.numel(), one.batch.mask, self._stream.folder.device)

        def meet(product: Product) -> None:
            name = name_of(product.parameter, product.expert)
            if name not in known:
                raise InputError(f"{name} runs, and did not in the first block of its kind; report this, and the model")
            if name not in chosen:
                positions.of(product)  # later matrices of an expert read the tokens of its first
                return
            kept, tokens = positions.of(product)
            if tokens is None and positions.counting is not None:
                raise InputError(
                    f"{name} reads rows that cannot be told apart as tokens or padding; give windows without padding"
                )
            layer = chosen[name]
            x, y = _rows(product.x, kept), _rows(product.y, kept)
            bias = None if product.biased else self.bias(layer)
            if bias is not None:  # the block adds it in a step of its own
                y = y + bias
            rows[name] += len(x)
            if len(x):
                reads(Read(layer, number, x, y, tokens))

        return Watch(parameters_of(self.module, self.name), meet, positions.after)


def _rows(matrices: Tensor, kept: Tensor | None) -> Tensor:
    """Return the rows (n, c) that were kept of what a product has, (..., c)."""
    rows = matrices.reshape(-1, matrices.shape[-1])
    return rows if kept is None else rows[kept]
