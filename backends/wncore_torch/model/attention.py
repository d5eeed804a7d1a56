"""Attention with grouped heads, in float32 on a GPU.

transformers lets torch group the heads where there is no mask. No fused kernel of torch's does so in float32, and what
takes their place holds all scores (b, h, l, l) at once, in several copies. With keys and values repeated for the heads
of a group a fused kernel is found; transformers does that itself where there is a mask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from wncore_torch.model.internals import sdpa_attention

NAME = "use_gqa_in_sdpa"


@contextmanager
def fused_heads(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Have transformers repeat keys and values within the block; without effect in half precision and on the CPU."""
    asked = getattr(sdpa_attention, NAME, None)
    if asked is None or device.type != "cuda" or dtype not in (torch.float32, torch.float64):
        yield
        return

    def grouped(mask: Tensor | None, key: Tensor, *others: Any, **named: Any) -> bool:
        return key.itemsize < 4 and asked(mask, key, *others, **named)

    setattr(sdpa_attention, NAME, grouped)
    try:
        yield
    finally:
        setattr(sdpa_attention, NAME, asked)
