"""The routed product."""

import torch
from torch import Tensor

from wncore_torch.plain.blocks import by_label
from wncore_torch.precision import product


def routed_linear(x: Tensor, weights: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Sort the tokens by expert, one product for each: (n, d), (k, m, d), (m,) or None, (n,) -> (n, m).

    Half precision is rounded once, after the bias. Of the labels, k counts go to the host.
    """
    if len(weights) == 1:
        return _finish(product(x, weights[0].T), bias, x.dtype)
    out, experts = x.new_empty(len(x), weights.shape[1]), by_label(labels, labels.bincount(minlength=len(weights)))
    for tokens, weight in zip(experts, weights, strict=True):
        out[tokens] = _finish(product(x[tokens], weight.T), bias, x.dtype)
    return out


def _finish(y: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (y if bias is None else y + bias).to(dtype)
