"""The operations of a forward, counted from shapes, and how many of them are done in a second here; no weight is read.

A product of a weight and a token takes two operations. What a block does beside products and attention (norms,
activation functions, routers' choices) is not counted, nor is reading the weights.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from wncore.backend import Backend
from wncore.dumps.layer import choose_tokens
from wncore.effort import Step, measure
from wncore.layers.activations import Activations
from wncore.matrix import LinearLayer
from wncore_torch.model.blocks import find_blocks
from wncore_torch.model.folder import Folder
from wncore_torch.model.held import matrix

EXPERTS = "num_local_experts", "num_experts", "n_routed_experts"
"""What configs call the number of experts."""
LONGEST = 2048
"""Tokens of a window whose attention is tried; a longer one goes on at the same rate."""


def products(folder: Folder, tokens: int, head: bool = False) -> int:
    """Count what multiplies weights of the blocks, and of the lm_head if asked for; of experts those that a token has.

    `2 x weights x tokens`.
    """
    _, blocks = find_blocks(folder.model)
    weights = sum(_weights(folder, name, value) for name, value in blocks.named_parameters() if value.ndim > 1)
    if head:
        weights += folder.vocabulary * _config(folder).hidden_size
    return 2 * tokens * int(weights)


def attention(folder: Folder, tokens: int, length: int) -> int:
    """Count scores and sums of values, `4 x length x width` a token and block, a causal mask's half among them."""
    _, blocks = find_blocks(folder.model)
    heads, width = _heads(folder)
    return 4 * tokens * length * heads * width * len(blocks)


def forward_effort(folder: Folder, tokens: int, batch: int, length: int, head: bool = False) -> list[Step]:
    """Foretell a forward, block by block, of windows of `length`, `batch` at a time."""
    steps = [Step("products", products(folder, tokens, head), "operations", _product_rate(folder, batch * length))]
    if all(_heads(folder)):
        rate = _attention_rate(folder, batch, min(length, LONGEST))
        steps.append(Step("attention", attention(folder, tokens, length), "operations", rate))
    return steps


def _weights(folder: Folder, name: str, value: torch.Tensor) -> float:
    """Return how many numbers of a parameter a token meets."""
    config = _config(folder)
    there = next((n for one in EXPERTS if (n := getattr(config, one, None))), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    if there and chosen and ".experts." in name:
        return value.numel() * chosen / there
    return value.numel()


def trial_layer(folder: Folder, backend: Backend, rows: int, neurons: int, inputs: int) -> Activations:
    """Return a layer of random numbers where those of the model will be, in its dtype."""
    parts: dict[str, Any] = {}
    for part, columns in (("input", inputs), ("output", neurons)):
        values = torch.randn(rows, columns, device=folder.device).to(folder.dtype)
        parts[part] = matrix(f"trial.{part}", values)
    return Activations(LinearLayer("trial", **parts), choose_tokens(np.ones(rows, bool), None), backend)


def _config(folder: Folder) -> Any:
    return folder.model.config.get_text_config()


def _heads(folder: Folder) -> tuple[int, int]:
    """Return the number of heads, and the width of one; 0 for models without attention."""
    config = _config(folder)
    heads = getattr(config, "num_attention_heads", None) or 0
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    return heads, width


def _product_rate(folder: Folder, rows: int) -> float:
    """Return operations a second of products with the largest matrix."""
    _, blocks = find_blocks(folder.model)
    shapes = [parameter.shape[-2:] for parameter in blocks.parameters() if parameter.ndim > 1]
    m, d = max(shapes, key=prod)
    weight = torch.ones(m, d, dtype=folder.dtype, device=folder.device)

    def prepare(count: int) -> Callable[[], object]:
        x = torch.ones(count, d, dtype=folder.dtype, device=folder.device)
        return lambda: _done(x @ weight.T)

    return 2 * m * d * measure(prepare, rows)


def _attention_rate(folder: Folder, batch: int, length: int) -> float:
    """Return operations a second of the attention of a window, head by head."""
    heads, width = _heads(folder)
    eager = getattr(_config(folder), "_attn_implementation", None) == "eager"

    def prepare(count: int) -> Callable[[], object]:
        x = torch.ones(1, count, length, width, dtype=folder.dtype, device=folder.device)
        if eager:
            return lambda: _done((x @ x.mT).float().softmax(-1).to(x.dtype) @ x)
        return lambda: _done(scaled_dot_product_attention(x, x, x, is_causal=True))

    return 4 * length * length * width * measure(prepare, batch * heads)


def _done(values: torch.Tensor) -> None:
    """Wait until a device has computed them."""
    if values.device.type == "cuda":
        torch.cuda.synchronize(values.device)
