"""Which tokens the rows of a product are: all in order, or those that a router sent to an expert.

An expert is given `hidden[index]`: rows of that memory are the tokens of the index. Its later matrices read what it
made of them, row by row, so their rows are the same tokens. Where neither is seen, the tokens are unknown, and nothing
is guessed.
"""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from wncore_torch.model.products import Product

Expert = tuple[str, int | None]
"""The module that an expert's matrices are of, and its index where they are slices of parameters."""


class Positions:
    """Follows the tokens of a batch (b, l) through one run of a block; mask (b, l) bool, True where a token counts."""

    def __init__(self, tokens: int, mask: Tensor | None, device: torch.device) -> None:
        self.every = torch.arange(tokens, device=device)
        self.counting = None if mask is None or bool(mask.all()) else mask.reshape(-1).to(device)
        self._gathered: deque[tuple[Tensor, Tensor]] = deque(maxlen=4)  # held, so that no memory is taken for another's
        self._bases: deque[Tensor] = deque(maxlen=4)
        self._of_expert: dict[Expert, Tensor] = {}

    def after(self, function: str, args: tuple[Any, ...], output: Any) -> None:
        """Note `hidden[index]` and `hidden.index_select(0, index)`, if hidden has a row for each token."""
        if function == "index_select" and len(args) == 3 and args[1] == 0:
            args = (args[0], args[2])
        elif function != "__getitem__":
            return
        base, index, *_ = args
        if not (isinstance(base, Tensor) and isinstance(index, Tensor) and isinstance(output, Tensor)):
            return
        if base.ndim != 2 or index.ndim != 1 or len(base) != len(self.every) or not base.is_floating_point():
            return
        self._gathered.append((output, self.every[index]))
        self._bases.append(base)

    def of(self, product: Product) -> tuple[Tensor | None, Tensor | None]:
        """Return which rows of a product count, None: all, and their tokens (n,), ascending; None if unknown."""
        x = product.x.reshape(-1, product.x.shape[-1])
        tokens = self._find(product, x)
        rows: Tensor | None = None
        if tokens is not None and tokens is not self.every:  # routers send the tokens of first choice first
            tokens, rows = tokens.sort(stable=True)
        if product.sparse:  # a row of zeros is a token that the router did not send
            sent = x.ne(0).any(1)
            rows, tokens = _those(sent if rows is None else sent[rows], rows, tokens)
        if self.counting is not None and tokens is not None:
            rows, tokens = _those(self.counting[tokens], rows, tokens)
        return rows, tokens

    def _find(self, product: Product, x: Tensor) -> Tensor | None:
        expert, memory = _expert_of(product), x.untyped_storage().data_ptr()
        for gathered, index in self._gathered:
            if gathered.untyped_storage().data_ptr() == memory:
                begin = (int(x.storage_offset()) - int(gathered.storage_offset())) // gathered.stride(0)
                self._of_expert[expert] = index[begin : begin + len(x)]
                return self._of_expert[expert]
        every = len(x) == len(self.every)
        if every and any(base.untyped_storage().data_ptr() == memory for base in self._bases):
            self._of_expert[expert] = self.every
        known = self._of_expert.get(expert)
        if known is not None and len(known) == len(x):
            return known
        gathered_all = any(len(index) == len(x) for _, index in self._gathered)  # perhaps in another order
        return self.every if every and not gathered_all else None


def _those(chosen: Tensor, rows: Tensor | None, tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Keep the chosen rows, (n,) bool in their order, and their tokens."""
    return chosen.nonzero()[:, 0] if rows is None else rows[chosen], None if tokens is None else tokens[chosen]


def _expert_of(product: Product) -> Expert:
    """Name the expert: `experts.3` of `experts.3.w1.weight`, the third of `experts` of its `gate_up_proj`."""
    path = product.parameter.removesuffix(".weight")
    return path.rpartition(".")[0], product.expert
