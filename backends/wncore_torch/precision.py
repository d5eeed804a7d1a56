"""How products of matrices round, whatever the program around allows: float32 as such, half precision in wide sums."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
"""What is stored in these is added up in float32."""


def widened(x: Tensor) -> Tensor:
    """Return half precision as float32, all else as it is."""
    return x.float() if x.dtype in HALF else x


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply two matrices, half precision with float32 sums and a float32 result.

    float16 goes as TensorFloat32, which holds all its digits: of numbers below 6e-5 its own tensor cores lose some.
    """
    if a.dtype == torch.float16 and a.is_cuda:
        with full_precision(tf32=True):
            return a.float() @ b.float()
    if a.dtype == torch.bfloat16 and a.is_cuda and _WIDE_PRODUCTS:
        return torch.mm(a, b, out_dtype=torch.float32)
    return widened(a) @ widened(b)


@contextmanager
def full_precision(tf32: bool = False) -> Iterator[None]:
    """Set how float32 products round, on CPU and CUDA, and keep sums of half precision in float32; then set it back."""
    with ExitStack() as undo:
        for holder, name, value in _settings(tf32):
            undo.callback(setattr, holder, name, _held(holder, name))
            setattr(holder, name, value)
        yield


def _settings(tf32: bool) -> Iterator[tuple[Any, str, Any]]:
    cuda = torch.backends.cuda.matmul
    if hasattr(cuda, "fp32_precision"):  # since torch 2.9
        yield cuda, "fp32_precision", "tf32" if tf32 else "ieee"
        yield torch.backends.mkldnn.matmul, "fp32_precision", "ieee"  # pyright: ignore[reportAttributeAccessIssue]
    else:
        yield cuda, "allow_tf32", tf32
    yield cuda, "allow_bf16_reduced_precision_reduction", False
    yield cuda, "allow_fp16_reduced_precision_reduction", False
    if hasattr(cuda, "allow_fp16_accumulation"):
        yield cuda, "allow_fp16_accumulation", False


def _held(holder: Any, name: str) -> Any:
    """Return a setting as it must be set again: where sums may be split, that is a part of it."""
    value = getattr(holder, name)
    return (value, getattr(holder, f"{name}_split_k")) if hasattr(holder, f"{name}_split_k") else value


_WIDE_PRODUCTS = "dtype" in torch.ops.aten.mm.overloads()
"""Whether this torch gives products of bfloat16 a wide result: since 2.8, on CUDA."""
