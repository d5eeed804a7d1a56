"""The torch backend (CPU and CUDA). Importing this module does not import torch.

So far it does in plain torch what scoring needs; every operation is certified against the core.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wncore.normal import quantile_cells

if TYPE_CHECKING:
    import torch


class TorchBackend:
    """Plain torch on one device (default: the first CUDA device, else the CPU)."""

    name: ClassVar[str] = "torch"
    dtypes: ClassVar[tuple[str, ...]] = ("float64", "float32")
    install_hint: ClassVar[str] = "pip install 'wncore[torch]'"

    def __init__(self, device: str | None = None) -> None:
        import torch

        self.torch = torch
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
