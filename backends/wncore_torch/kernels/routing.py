"""The routed product: all experts in one kernel, which works out for itself what tokens it has."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wncore_torch.plain.routing import routed_linear as plain_routed
from wncore_torch.precision import HALF

HOW = "Triton for half precision and several experts; others in plain torch"
TOKENS, NEURONS, INPUTS = 128, 256, 64
"""A program's part of the answer, and the inputs of a step."""
GROUP = 8
"""Tiles of tokens that go through the same weights at about the same time, while those are in the cache."""


def routed_linear(x: Tensor, weights: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Sort the tokens by expert, and cut each expert's into tiles: (n, d), (k, m, d), (m,) or None, (n,) -> (n, m)."""
    (n, d), (k, m, _) = x.shape, weights.shape
    if k == 1 or x.dtype not in HALF:
        return plain_routed(x, weights, bias, labels)
    experts, order = labels.sort(stable=True)
    starts = torch.searchsorted(experts, torch.arange(k + 1, device=x.device))
    out, most = torch.empty(n, m, dtype=x.dtype, device=x.device), triton.cdiv(n, TOKENS) + k
    _product[(most * triton.cdiv(m, NEURONS),)](
        *(x, weights, x if bias is None else bias, order, starts, out),
        *(most, m, d, k, *x.stride(), *weights.stride(), 0 if bias is None else bias.stride(0)),
        *(bias is not None, max(16, triton.next_power_of_2(k)), TOKENS, NEURONS, INPUTS, GROUP),
        num_warps=8,
        num_stages=3,
    )
    return out


@triton.jit(do_not_specialize=["most", "k", "bias_stride"])
def _product(
    x,
    weights,
    bias,
    order,
    starts,
    out,
    most,
    m,
    d,
    k,
    token_stride,
    input_stride,
    expert_stride,
    neuron_stride,
    weight_stride,
    bias_stride,
    biased: tl.constexpr,
    experts: tl.constexpr,
    tokens: tl.constexpr,
    neurons: tl.constexpr,
    inputs: tl.constexpr,
    group: tl.constexpr,
):
    """Multiply one tile of an expert's tokens with some of its neurons."""
    across = tl.cdiv(m, neurons)
    batch = tl.program_id(0) // (group * across)
    high = tl.minimum(most - batch * group, group)
    within = tl.program_id(0) % (group * across)
    tile, block = batch * group + within % high, within // high

    each = tl.arange(0, experts)
    first = tl.load(starts + each, mask=each < k, other=0)
    held = tl.load(starts + each + 1, mask=each < k, other=0) - first
    upto = tl.cumsum(tl.cdiv(held, tokens), 0)
    expert = tl.sum((upto <= tile).to(tl.int32), 0)
    if expert < k:  # there are fewer tiles than programs
        mine = each == expert
        before = tl.sum(tl.where(mine, upto - tl.cdiv(held, tokens), 0), 0)
        place = (tile - before) * tokens + tl.arange(0, tokens)
        there = place < tl.sum(tl.where(mine, held, 0), 0)
        token = tl.load(order + tl.sum(tl.where(mine, first, 0), 0) + place, mask=there, other=0)
        neuron = block * neurons + tl.arange(0, neurons)
        j = tl.arange(0, inputs)
        left = x + token[:, None] * token_stride + j * input_stride
        right = weights + expert.to(tl.int64) * expert_stride + neuron.to(tl.int64) * neuron_stride
        right = right + j[:, None] * weight_stride
        total = tl.zeros((tokens, neurons), tl.float32)
        for start in range(0, d, inputs):
            a = tl.load(left, mask=there[:, None] & (j < d - start), other=0.0)
            b = tl.load(right, mask=(neuron < m) & (j < d - start)[:, None], other=0.0)
            total += tl.dot(a, b)
            left += inputs * input_stride
            right += inputs * weight_stride
        if biased:
            total += tl.load(bias + neuron * bias_stride, mask=neuron < m, other=0.0).to(tl.float32)
        written = out + token[:, None] * m + neuron
        tl.store(written, total.to(out.dtype.element_ty), mask=there[:, None] & (neuron < m))
