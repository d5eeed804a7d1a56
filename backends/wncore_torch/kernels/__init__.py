"""Fused kernels, for operations that plain torch leaves far from what a GPU can do; each has a twin of its name.

A module of a kernel has a function by the operation's name, and `HOW`, which says for what the kernel runs and what
takes the twin: the certificate shows it.
"""

import os
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import torch
from torch.cuda import _utils

from wncore.errors import BackendUnavailable

TRITON = {
    "gaussian_distance": "distance",
    "distance_bounds": "bounds",
    "routed_linear": "routing",
    "prune": "pruning",
}
"""Operations whose kernels Triton compiles, or interprets on the CPU, and their modules."""
CUDA = {"histogram": "histograms", "histogram_runs": "histograms", "linear_histogram": "fused", "lloyd": "clusters"}
"""Operations whose kernels only a CUDA device can run."""


def operations(device: torch.device) -> dict[str, tuple[Callable[..., Any], str]]:
    """Return the operations that have a kernel for this device, each with what runs it.

    Raises
    ------
    BackendUnavailable
        If torch, the device or Triton cannot run them.
    """
    if device.type == "cuda":
        _check_cuda(device)
    elif os.environ.get("TRITON_INTERPRET") != "1":
        raise BackendUnavailable(f"fused kernels run on CUDA devices, not on {device.type!r}; take kernels='plain'")
    modules = TRITON | (CUDA if device.type == "cuda" else {})
    try:
        found = {name: import_module(f"{__name__}.{module}") for name, module in modules.items()}
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"fused kernels need {error.name!r}, which is missing: pip install {error.name}, or take kernels='plain'"
        ) from error
    return {name: (_launched(getattr(module, name)), module.HOW) for name, module in found.items()}


def _check_cuda(device: torch.device) -> None:
    if not hasattr(getattr(_utils, "_CudaKernel", None), "set_shared_memory_config"):
        raise BackendUnavailable(
            f"fused kernels need torch 2.10 or newer, not {torch.__version__}; take kernels='plain'"
        )
    if torch.cuda.get_device_capability(device) < (8, 0):
        raise BackendUnavailable("fused kernels need a GPU of compute capability 8.0 or more; take kernels='plain'")


def _launched(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make the device of the first argument the current one, where Triton and CUDA launch; keep what is compiled."""
    from wncore_torch.kernels.kept import kept_kernels

    @wraps(run)
    def launched(first: torch.Tensor, *others: Any) -> Any:
        with torch.cuda.device_of(first), kept_kernels():
            return run(first, *others)

    return launched
