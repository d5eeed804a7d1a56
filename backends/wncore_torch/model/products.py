"""What is multiplied by a parameter while code runs: seen by a function mode, whatever module does it, or none.

Hooks on `nn.Linear` see 4 % of Mixtral: its experts are slices of one parameter of three axes, and its routers are no
`nn.Linear`. A function mode is shown every product of both, of `nn.Linear` and of GPT-2's Conv1D.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, eq=False)
class Product:
    """An input multiplied by a parameter (m, d), or by one expert's slice of a parameter (k, m, d)."""

    parameter: str
    expert: int | None
    x: Tensor
    """(..., d)"""
    y: Tensor
    """(..., m), what came of it"""
    biased: bool
    """whether a bias was added in the same step"""
    turned: bool
    """whether the parameter is stored as (d, m), inputs first"""
    sparse: bool = False
    """whether all experts were given all tokens, those of other experts as zeros (Llama 4)"""


class Watch(TorchFunctionMode):
    """Calls `meet` for each product with one of the parameters, once it is computed, and `after` for all else.

    Parameters are known by their memory, so that a view of one counts as the parameter.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        meet: Callable[[Product], object],
        after: Callable[[str, tuple[Any, ...], Any], object] | None = None,
    ) -> None:
        super().__init__()
        self._own: dict[int, list[tuple[str, Tensor]]] = {}
        for name, parameter in parameters.items():
            if parameter.ndim in (2, 3):  # several may be parts of one tensor of the file, and of its memory
                self._own.setdefault(parameter.untyped_storage().data_ptr(), []).append((name, parameter))
        self._meet, self._after = meet, after

    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        output = function(*args, **given)
        factors = _factors(function.__name__, args, given)
        if factors is not None:
            x, rows, biased = factors
            candidates = self._own.get(rows.untyped_storage().data_ptr(), ())
            if candidates and x.untyped_storage().data_ptr() not in self._own:
                for name, parameter in candidates:
                    for product in _products(name, parameter, x, rows, output, biased):
                        self._meet(product)
        elif self._after is not None:
            self._after(function.__name__, args, output)
        return output


def _factors(function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor, bool] | None:
    """Return what a product is of, the second as (..., m, d), and whether a bias is added; None if it is no product."""
    if function == "linear":
        x, weight, *bias = *args, *(kwargs[name] for name in ("input", "weight", "bias") if name in kwargs)
        return x, weight, bool(bias) and bias[0] is not None
    if function in ("matmul", "mm", "bmm"):
        x, weight, *_ = *args, *(kwargs[name] for name in ("input", "other", "mat2") if name in kwargs)
    elif function in ("addmm", "baddbmm") and len(args) >= 3:
        _, x, weight, *_ = args
    else:
        return None
    return (x, weight.mT, function.endswith(("addmm", "addbmm"))) if weight.ndim >= 2 else None


def _products(name: str, parameter: Tensor, x: Tensor, rows: Tensor, y: Tensor, biased: bool) -> Iterable[Product]:
    """Say which expert's rows these are, and how they are stored; nothing if they are only a part of a matrix."""
    if parameter.ndim == 2:
        if (turned := _turned(parameter, rows)) is not None:
            yield Product(name, None, x, y, biased, turned)
    elif rows.ndim == 2:
        expert = (rows.storage_offset() - parameter.storage_offset()) // parameter.stride(0)
        if 0 <= expert < len(parameter) and (turned := _turned(parameter[expert], rows)) is not None:
            yield Product(name, expert, x, y, biased, turned)
    elif rows.ndim == 3 and x.ndim == 3 and (turned := _turned(parameter, rows)) is not None:
        for expert in range(len(parameter)):
            yield Product(name, expert, x[expert], y[expert], biased, turned, sparse=True)


def _turned(stored: Tensor, rows: Tensor) -> bool | None:
    """Whether rows (.., m, d) are what is stored, turned; None if they are not the whole of it, in either way."""

    def same(one: Tensor) -> bool:
        return (one.shape, one.stride(), one.storage_offset()) == (rows.shape, rows.stride(), rows.storage_offset())

    return False if same(stored) else True if same(stored.mT) else None


def parameters_of(module: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    """List a module's parameters of two or more axes, which linear layers can be of, named from `prefix` on."""
    return {f"{prefix}.{name}": value for name, value in module.named_parameters() if value.ndim >= 2}
