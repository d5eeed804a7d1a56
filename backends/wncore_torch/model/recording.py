"""What each block of a model is called with, recorded in one forward whose blocks only hand the hidden state on.

The first block's arguments are *not* those of all: masks differ by the kind of attention. A recording is made for
every batch, as what precedes the blocks has to run anyway; a tensor equal to one that is kept is not kept twice,
decided by its bytes and never by its shape.

Blocks that need more of each other than one hidden state are refused by three rules: the hidden state that enters a
block is the very object that the one before handed on; every block is called once, in order; no argument is a container
that blocks could fill, or was made from what a block returned beside the hidden state.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from wncore_torch.model.attention import fused_heads
from wncore_torch.model.blocks import NotStreamable, find_blocks, surroundings_loaded
from wncore_torch.model.folder import Folder
from wncore_torch.model.parameters import loaded, names_below

HIDDEN = object()
"""Stands for the hidden state in recorded arguments."""

ONE_STATE = "wncore hands one hidden state from block to block, as it is; use another model"
EACH_ONCE = "wncore runs each block once, in order; use another model"

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a block, by position and by name."""
Form = Callable[[Tensor], Any]
"""How a kind of block returns a hidden state: alone, or first in a tuple or list."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of one length: ids (b, l) int64, and where they are not padding (b, l) bool; None: nowhere."""

    ids: Tensor
    mask: Tensor | None = None


@dataclass(eq=False)
class Recorded:
    """A batch on its way: the hidden state (b, l, h) that enters the next block, and the arguments of every block."""

    batch: Batch
    hidden: Tensor
    calls: list[Call]


class _Enough(Exception):
    """Ends a forward in front of the lm_head, which is neither read nor run."""


class _Returned(Tensor):
    """What a block returned beside the hidden state: its class shows wherever it goes."""


class Kept:
    """Tensors kept as arguments, each once; `place` is where they wait."""

    def __init__(self, place: torch.device) -> None:
        self.place = place
        self.by_digest: dict[tuple[object, ...], Tensor] = {}

    def keep(self, value: Any, where: str) -> Any:
        """Return a copy of an argument made of kept tensors; refuse what blocks could pass things by."""
        if value is HIDDEN or value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
            return value
        if isinstance(value, _Returned):
            raise NotStreamable(f"{where} was made by another block; {ONE_STATE}")
        if isinstance(value, Tensor):
            host = value.detach().cpu().contiguous()
            key = blake2b(host.flatten().view(torch.uint8).numpy().data).digest(), value.dtype, value.shape
            if key not in self.by_digest:
                self.by_digest[key] = value.to(self.place)
            return self.by_digest[key]
        if isinstance(value, tuple):
            return tuple(self.keep(item, where) for item in value)
        if type(value) is dict and value:  # a copy; that no block writes into it is checked when one runs
            return {key: self.keep(item, where) for key, item in value.items()}
        raise NotStreamable(
            f"{where} is a {type(value).__name__}, by which blocks may pass things to each other; {ONE_STATE}"
        )


@torch.no_grad()
def record(folder: Folder, batches: Sequence[Batch], place: torch.device) -> tuple[list[Recorded], dict[type, Form]]:
    """Record each batch's hidden state before the first block and the arguments of all blocks; they wait at `place`.

    Also returns how each class of blocks returns, for which one of each is run once.

    Raises
    ------
    NotStreamable
        If the blocks need more of each other than a hidden state.
    """
    kept, forms = Kept(place), dict[type, Form]()
    with surroundings_loaded(folder, head=False), _stopping_at_the_head(folder.model):
        return [_record_one(folder, batch, kept, forms) for batch in batches], forms


def _record_one(folder: Folder, batch: Batch, kept: Kept, forms: dict[type, Form]) -> Recorded:
    path, blocks = find_blocks(folder.model)
    calls: list[Call] = []
    first: list[Tensor] = []
    handed: list[Tensor] = []  # each a new object of the same memory, so that an earlier one that is kept shows
    alive: list[Any] = []  # tensors are told apart by identity: none may be freed, and its id used again
    seen: dict[int, Any] = {}

    def keep(value: Any, where: str) -> Any:
        if id(value) not in seen:  # the blocks of a forward mostly share their arguments
            seen[id(value)] = kept.keep(value, where)
        return seen[id(value)]

    def recorder(index: int, block: nn.Module) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            where = f"{path}.{index}"
            alive.append((args, kwargs))
            hidden = args[0] if args else kwargs["hidden_states"]
            if index != len(calls):
                raise NotStreamable(f"{where} is called as number {len(calls)}; {EACH_ONCE}")
            if (handed and hidden is not handed[-1]) or hidden.is_meta:
                raise NotStreamable(f"something happens to the hidden state before {where}; {ONE_STATE}")
            if not first:
                first.append(hidden)
            earlier = {id(value) for value in handed[:-1]}
            for value in (*args, *kwargs.values()):
                if id(value) in earlier:
                    raise NotStreamable(f"{where} reads the hidden state of an earlier block; {ONE_STATE}")
            args = tuple(HIDDEN if value is hidden else value for value in args)
            kwargs = {name: HIDDEN if value is hidden else value for name, value in kwargs.items()}
            calls.append(
                (
                    tuple(keep(value, f"argument {i} of {where}") for i, value in enumerate(args)),
                    {name: keep(value, f"{name} of {where}") for name, value in kwargs.items()},
                )
            )
            if type(block) not in forms:
                with loaded(folder, names_below(folder.model, where)):
                    forms[type(block)] = _form_of(call_block(block, calls[-1], hidden, type(block).forward))
            handed.append(hidden.detach())
            return forms[type(block)](handed[-1])

        return forward

    with replaced(blocks, [recorder(index, block) for index, block in enumerate(blocks)]):
        forward(folder, batch)
    if len(calls) != len(blocks):
        raise NotStreamable(f"{len(calls)} of {len(blocks)} blocks of {path} are called; {EACH_ONCE}")
    return Recorded(batch, first[0].to(kept.place), calls)


def forward(folder: Folder, batch: Batch) -> Any:
    """Call the model on a batch; returns None if it is stopped in front of the lm_head."""
    mask = None if batch.mask is None else batch.mask.to(folder.device, torch.int64)
    try:
        return folder.model(input_ids=batch.ids.to(folder.device), attention_mask=mask, use_cache=False)
    except _Enough:
        return None


@contextmanager
def _stopping_at_the_head(model: Any) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _Enough

    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(stop)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def replaced(blocks: nn.ModuleList, forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Give each block another `forward` within the `with`; the module stays, as models read its attributes."""
    for block, forward in zip(blocks, forwards, strict=True):
        block.forward = forward
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _form_of(output: Any) -> Form:
    if isinstance(output, Tensor):
        return lambda hidden: hidden
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        rest = [value.as_subclass(_Returned) if isinstance(value, Tensor) else value for value in output[1:]]
        return lambda hidden: type(output)([hidden, *rest])  # type: ignore[call-arg]
    raise NotStreamable(f"a block returns a {type(output).__name__}; {ONE_STATE}")


def call_block(block: nn.Module, call: Call, hidden: Tensor, forward: Callable[..., Any] | None = None) -> Any:
    """Call a block with its own arguments on a hidden state (b, l, h); returns what the block returns.

    Raises
    ------
    NotStreamable
        If it writes into its input, or into a dict that other blocks read.
    """
    version = hidden._version
    args, kwargs = _filled(call, hidden)
    dicts = [(value, dict(value)) for value in (*args, *kwargs.values()) if isinstance(value, dict)]
    with fused_heads(hidden.device, hidden.dtype):
        output = block(*args, **kwargs) if forward is None else forward(block, *args, **kwargs)
    for now, before in dicts:
        if now.keys() != before.keys() or any(now[key] is not before[key] for key in now):
            raise NotStreamable(f"{type(block).__name__} writes into a dict that other blocks read; use another model")
    if hidden._version != version:  # a second pass would see another input than the first
        raise NotStreamable(f"{type(block).__name__} writes into its input; use another model")
    return output


def _filled(value: Any, hidden: Tensor) -> Any:
    """Put the hidden state into recorded arguments, and take tensors to its device; containers are new."""
    if isinstance(value, tuple):
        return tuple(_filled(item, hidden) for item in value)
    if isinstance(value, dict):
        return {key: _filled(item, hidden) for key, item in value.items()}
    if isinstance(value, Tensor):
        return value.to(hidden.device)
    return hidden if value is HIDDEN else value
