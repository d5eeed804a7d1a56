"""The linear layers of a model: which there are, which share an input, and which share of its parameters they are.

They are found by running one block of each kind on a few tokens. What it multiplies by a parameter is a linear layer,
whatever module does it (products.py). A layer has the path of its module, `model.layers.0.mlp.down_proj`. An expert
that is a slice of one parameter has that parameter's path and its index, `model.layers.0.mlp.experts.gate_up_proj.3`:
the names that the module runs with, as a file may hold the experts fused or one by one. An expert that gets no token
makes no call; it is listed by the shape of its parameter, or by its twins in a list of modules.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wncore_torch.model.blocks import find_blocks
from wncore_torch.model.folder import Folder
from wncore_torch.model.parameters import loaded, names_below
from wncore_torch.model.products import Product, Watch, parameters_of
from wncore_torch.model.recording import Batch, call_block, record

FEW = 32
"""Tokens of each of the two sequences that a kind of block is run on."""


@dataclass(frozen=True)
class Linear:
    """A linear layer: m neurons of d inputs, and where its weights are."""

    name: str
    block: int
    shape: tuple[int, int]
    """(m, d), outputs first, whatever the module stores"""
    reads: str
    """the first layer that reads the same input, itself if it is the first or the only one"""
    parameter: str
    expert: int | None
    """which slice of the parameter; None: all of it"""
    turned: bool
    """whether the parameter has inputs first, as GPT-2's Conv1D"""
    bias: str | None
    """the parameter of its bias, of which an expert has a slice, too"""
    attention: bool = False
    """whether it is of the block's attention module; all others are its MLP"""

    @property
    def routed(self) -> bool:
        """Whether it is an expert's, which reads the tokens that a router sends it."""
        return self.expert is not None or ".experts." in self.name

    def weight_of(self, parameter: Tensor) -> Tensor:
        """Return its weight (m, d) in a parameter: a view, so that what is written there is written into the module.

        This is the one place where Conv1D and the like are turned.
        """
        own = parameter if self.expert is None else parameter[self.expert]
        return own.mT if self.turned else own

    def bias_of(self, parameter: Tensor) -> Tensor:
        """Return its bias (m,) in the parameter of that name, a view."""
        return parameter if self.expert is None else parameter[self.expert]


@dataclass(frozen=True)
class Linears:
    """The linear layers of a model's blocks, in the order in which they run, and what they cover."""

    layers: tuple[Linear, ...]
    parameters: int
    """elements of the blocks' parameters with two or more axes"""
    covered: int
    """of these, how many are weights of a layer listed here"""
    uncovered: tuple[str, ...]
    """parameters that no product was seen with"""

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return self.layers[-1].block + 1 if self.layers else 0

    def of_block(self, index: int) -> tuple[Linear, ...]:
        """Return the layers of one block."""
        return tuple(layer for layer in self.layers if layer.block == index)


@dataclass(frozen=True)
class _Seen:
    """A layer as a kind of block has it: names are below the block's path."""

    parameter: str
    expert: int | None
    turned: bool
    reads: str

    @property
    def name(self) -> str:
        return name_of(self.parameter, self.expert)


def name_of(parameter: str, expert: int | None) -> str:
    """Name a layer by its weights.

    >>> name_of("mlp.up_proj.weight", None), name_of("mlp.experts.gate_up_proj", 3)
    ('mlp.up_proj', 'mlp.experts.gate_up_proj.3')
    """
    return parameter.removesuffix(".weight") + ("" if expert is None else f".{expert}")


@torch.no_grad()
def find_linears(folder: Folder) -> Linears:
    """Find the linear layers of all blocks; one block of each kind is read and run.

    Raises
    ------
    NotStreamable
        If the model cannot be run block by block.
    """
    path, blocks = find_blocks(folder.model)
    length = min(FEW, folder.limit or FEW)
    ids = (torch.arange(2 * length) * 7919 + 3) % folder.vocabulary  # any tokens do, if they differ
    (recorded,), _ = record(folder, [Batch(ids.reshape(2, length))], folder.device)
    kinds: dict[object, list[_Seen]] = {}
    layers: list[Linear] = []
    uncovered: list[str] = []
    sizes = {True: 0, False: 0}
    for index, block in enumerate(blocks):
        prefix = f"{path}.{index}"
        kind = _kind(block)
        if kind not in kinds:
            with loaded(folder, names_below(folder.model, prefix)):
                seen = _survey(block, lambda: call_block(block, recorded.calls[index], recorded.hidden))  # noqa: B023
            kinds[kind] = [*_with_twins(block, seen)]
        layers += [_linear(folder.model, prefix, index, one) for one in kinds[kind]]
        covered = {f"{prefix}.{one.parameter}" for one in kinds[kind]}
        for name, parameter in parameters_of(block, prefix).items():
            sizes[name in covered] += parameter.numel()
            uncovered += [] if name in covered else [name]
    return Linears(tuple(layers), sum(sizes.values()), sizes[True], tuple(uncovered))


def _kind(block: nn.Module) -> object:
    """What makes two blocks alike: the classes of their modules, and the shapes of their parameters."""
    modules = tuple((name, type(module)) for name, module in block.named_modules())
    return modules, tuple((name, parameter.shape) for name, parameter in block.named_parameters())


def _survey(block: nn.Module, run: Callable[[], object]) -> list[_Seen]:
    """Run a block, and list the layers that ran; two that were given the same memory share an input."""
    leaders: dict[tuple[object, ...], str] = {}
    found: dict[str, _Seen] = {}
    alive: list[Tensor] = []  # memory says "the same" only while none of it is freed

    def meet(product: Product) -> None:
        x = product.x
        alive.append(x)
        # in another shape, (b, l, d) or (b l, d), it is the same input; written into meanwhile, it is not
        memory = (x.data_ptr(), x.numel(), x.shape[-1], x.stride(-1), x._version)
        name = name_of(product.parameter, product.expert)
        leader = leaders.setdefault(memory, name)
        found.setdefault(name, _Seen(product.parameter, product.expert, product.turned, leader))

    parameters = {name.lstrip("."): value for name, value in parameters_of(block, "").items()}
    with Watch(parameters, meet):
        run()
    return list(found.values())


def _with_twins(block: nn.Module, seen: Iterable[_Seen]) -> Iterator[_Seen]:
    """Add the experts that got no token: the other slices of a parameter, the other modules of a list."""
    shapes = {name: value.shape for name, value in block.named_parameters()}
    patterns: dict[str, list[str]] = defaultdict(list)
    for name in shapes:
        patterns[numberless(name)].append(name)
    done = {one.name for one in seen}
    for one in seen:
        yield one
        twins = [(one.parameter, expert) for expert in range(shapes[one.parameter][0]) if one.expert is not None]
        twins += [(name, one.expert) for name in patterns[numberless(one.parameter)] if one.expert is None]
        for parameter, expert in twins:
            if (name := name_of(parameter, expert)) not in done and shapes[parameter] == shapes[one.parameter]:
                done.add(name)
                yield _Seen(parameter, expert, one.turned, _renumbered(one.reads, one.name, name))


def numberless(name: str) -> str:
    """Return a name without its numbers, which blocks and experts of a kind have in common.

    >>> numberless("h.0.experts.12.up_proj")
    'h.*.experts.*.up_proj'
    """
    return re.sub(r"\b\d+\b", "*", name)


def _renumbered(leader: str, name: str, twin: str) -> str:
    """Name the twin's leader: the layer's own, with the twin's numbers, if it is of the same expert."""
    old, new = (re.findall(r"\b\d+\b", one) for one in (name, twin))
    if re.findall(r"\b\d+\b", leader) != old:
        return leader if not re.search(r"\b\d+\b", leader) else twin
    numbers = iter(new)
    return re.sub(r"\b\d+\b", lambda _: next(numbers), leader)


def _linear(model: nn.Module, prefix: str, index: int, seen: _Seen) -> Linear:
    """Make the layer of one block of what its kind has."""
    parameter = f"{prefix}.{seen.parameter}"
    shapes = {name: tuple(value.shape) for name, value in model.get_submodule(prefix).named_parameters()}
    *experts, m, d = shapes[seen.parameter]
    if seen.turned:
        m, d = d, m
    candidates = (seen.parameter.removesuffix("weight") + "bias", seen.parameter + "_bias")
    bias = next((f"{prefix}.{name}" for name in candidates if shapes.get(name) == (*experts, m)), None)
    name, reads = f"{prefix}.{seen.name}", f"{prefix}.{seen.reads}"
    attention = _in_attention(model.get_submodule(prefix), seen.parameter)
    return Linear(name, index, (m, d), reads, parameter, seen.expert, seen.turned, bias, attention)


def _in_attention(block: nn.Module, parameter: str) -> bool:
    """Whether a parameter is of a module that is called attention, by its class or its place in the block."""
    steps = parameter.split(".")[:-1]
    modules = [(name, type(block.get_submodule(".".join(steps[: i + 1])))) for i, name in enumerate(steps)]
    return any("attention" in word or "attn" in word for name, of in modules for word in (name, of.__name__.lower()))
