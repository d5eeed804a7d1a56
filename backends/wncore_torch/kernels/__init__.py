"""Fused kernels, for operations that plain torch leaves far from what a GPU can do; each has a twin in `plain`.

A module of a kernel has a function by the operation's name, and `HOW`, which says for what the kernel runs and what
takes its twin: the certificate shows it.
"""

from collections.abc import Callable
from typing import Any

import torch


def operations(device: torch.device) -> dict[str, tuple[Callable[..., Any], str]]:
    """Return the operations that have a kernel for this device, each with what runs it.

    Raises
    ------
    ImportError
        If Triton, or what compiles CUDA, is missing.
    """
    return {}
