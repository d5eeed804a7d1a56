"""The repeated blocks of a causal language model, found by structure, and what lies around them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from wncore.errors import InputError
from wncore_torch.model.folder import Folder
from wncore_torch.model.parameters import loaded


class NotStreamable(InputError):
    """Blocks of this model need more of each other than one hidden state."""


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the decoder's blocks, the outermost ModuleList of the most parameters: -> its path, the list.

    Outermost, as a block may have lists of its own (experts); by size, as adapters are lists too. The config is not
    asked: its `num_hidden_layers` is BART's *encoder*. That each block is called once, in order, is proved when the
    model is recorded.

    Raises
    ------
    NotStreamable
        If there is no such list, or a block stands in it twice.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(other + ".") for other in lists)]
    if not outer:
        raise NotStreamable(
            f"{type(model).__name__} has no list of blocks, and wncore runs models block by block; use another"
        )
    name = max(outer, key=lambda name: sum(parameter.numel() for parameter in lists[name].parameters()))
    if len({id(block) for block in lists[name]}) != len(lists[name]):
        raise NotStreamable(f"{name} has one block more than once; wncore runs models whose blocks differ, use another")
    return name, lists[name]


def names_around(folder: Folder, head: bool) -> list[str]:
    """List the parameters around the blocks, those of the lm_head only if asked for."""
    path, _ = find_blocks(folder.model)
    output = folder.model.get_output_embeddings()
    return [
        f"{name}.{leaf}".lstrip(".")
        for name, module in folder.model.named_modules()
        if not name.startswith(path + ".") and (head or module is not output)
        for leaf, value in module._parameters.items()
        if value is not None
    ]


@contextmanager
def surroundings_loaded(folder: Folder, head: bool) -> Iterator[None]:
    """Have what lies around the blocks in memory within the `with`, the lm_head only if asked for.

    All of it is read before a forward, not each module as it is called: Llama 4 moves its ids to the device of the
    embedding *before* it calls it, and ids on meta give an embedding of garbage, without an error.
    """
    with loaded(folder, names_around(folder, head)):
        yield
