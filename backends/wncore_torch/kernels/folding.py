"""Histograms of runs of tokens: each joined to coarser bins, and all added up, in one read."""

import triton
import triton.language as tl
from torch import Tensor

MANY, RUNS = 4096, 32
"""Bins that a program holds at once, and the runs that its tree has leaves for."""


def can_fold(runs: int, bins: int, factor: int) -> bool:
    """Say whether `fold` takes so many runs, and so many bins, `factor` of them joined to one.

    Joined to a single bin they have another middle edge, from which powers are counted.
    """
    powers_of_two = bins & (bins - 1) == 0 and factor & (factor - 1) == 0
    return runs <= RUNS and bins <= MANY and powers_of_two and (factor == 1 or factor < bins)


def fold(edges: Tensor, counts: Tensor, sums: Tensor, powers: Tensor, factor: int) -> tuple[Tensor, ...]:
    """Follow `wncore.histograms.coarsen` for each run, and `wncore.layers.pieces.TreeSum` over them, to the bit.

    (m, b + 1), (p, m, b + 2) twice, (p, m, 4) -> counts, sums (m, b + 2), powers (m, 4) of all; counts, sums
    (p, m, b / factor + 2) and powers of the runs.
    """
    (runs, m, slots), few = counts.shape, (counts.shape[2] - 2) // factor
    total = counts.new_empty(m, slots), sums.new_empty(m, slots)
    coarse = counts.new_empty(runs, m, few + 2), sums.new_empty(runs, m, few + 2)
    leaves, bins = triton.next_power_of_2(runs), slots - 2
    shape = bins, factor, factor.bit_length() - 1
    arguments = edges, counts, sums, *total, *coarse, m, runs, leaves, *shape
    _fold[(m,)](*arguments, num_warps=max(1, min(8, bins // 128)), enable_fp_fusion=False)
    return *total, _tree(powers), *coarse, powers


def _tree(parts: Tensor) -> Tensor:
    """Add up along the first axis, neighbours first."""
    while len(parts) > 1:
        joined = parts[::2].clone()
        joined[: len(parts) // 2] += parts[1::2]
        parts = joined
    return parts[0]


@triton.jit
def _climb(carry, held, leaf, mask):
    """Pass a level of the tree on the way up from a leaf: be added to who waits there, or wait there oneself."""
    arrived, second = leaf & (mask >> 1) == mask >> 1, leaf & mask == mask
    return tl.where(second, held + carry, carry), tl.where(arrived & (leaf & mask != mask), carry, held)


@triton.jit
def _fold(
    edges, counts, sums, total_counts, total_sums, coarse_counts, coarse_sums, m, runs,
    leaves: tl.constexpr, bins: tl.constexpr, factor: tl.constexpr, halvings: tl.constexpr,
):  # fmt: skip
    """Fold one neuron. Runs that are not there are zeros, so that every tree has 2^k leaves."""
    few: tl.constexpr = bins // factor
    neuron = tl.program_id(0).to(tl.int64)
    j, k, ends = tl.arange(0, bins), tl.arange(0, few), tl.arange(0, 2)
    left = tl.load(edges + neuron * (bins + 1) + j)
    raised = left - tl.load(edges + neuron * (bins + 1) + j // factor * factor)
    all_inner, all_ends = tl.zeros((bins,), tl.int64), tl.zeros((2,), tl.int64)
    inner, tails = tl.zeros((bins,), tl.float64), tl.zeros((2,), tl.float64)
    inner0, inner1, inner2, inner3, inner4 = inner, inner, inner, inner, inner
    tails0, tails1, tails2, tails3, tails4 = tails, tails, tails, tails, tails
    for leaf in range(leaves):
        there = leaf < runs
        fine = (leaf * m + neuron) * (bins + 2)
        many = tl.load(counts + fine + 1 + j, mask=(j < bins) & there, other=0)
        inner = tl.load(sums + fine + 1 + j, mask=(j < bins) & there, other=0.0)
        many_ends = tl.load(counts + fine + ends * (bins + 1), mask=(ends < 2) & there, other=0)
        tails = tl.load(sums + fine + ends * (bins + 1), mask=(ends < 2) & there, other=0.0)

        lifted, joined = inner + many.to(tl.float64) * raised, many
        for _ in tl.static_range(halvings):
            one, other = tl.split(tl.reshape(lifted, (lifted.shape[0] // 2, 2)))
            lifted = one + other
            one, other = tl.split(tl.reshape(joined, (joined.shape[0] // 2, 2)))
            joined = one + other
        out = (leaf * m + neuron) * (few + 2)
        tl.store(coarse_counts + out + 1 + k, joined, mask=(k < few) & there)
        tl.store(coarse_sums + out + 1 + k, lifted, mask=(k < few) & there)
        tl.store(coarse_counts + out + ends * (few + 1), many_ends, mask=(ends < 2) & there)
        tl.store(coarse_sums + out + ends * (few + 1), tails, mask=(ends < 2) & there)

        all_inner += many
        all_ends += many_ends
        inner, inner0 = _climb(inner, inner0, leaf, 1)
        inner, inner1 = _climb(inner, inner1, leaf, 3)
        inner, inner2 = _climb(inner, inner2, leaf, 7)
        inner, inner3 = _climb(inner, inner3, leaf, 15)
        inner, inner4 = _climb(inner, inner4, leaf, 31)
        tails, tails0 = _climb(tails, tails0, leaf, 1)
        tails, tails1 = _climb(tails, tails1, leaf, 3)
        tails, tails2 = _climb(tails, tails2, leaf, 7)
        tails, tails3 = _climb(tails, tails3, leaf, 15)
        tails, tails4 = _climb(tails, tails4, leaf, 31)
    out = neuron * (bins + 2)
    tl.store(total_counts + out + 1 + j, all_inner)
    tl.store(total_sums + out + 1 + j, inner)
    tl.store(total_counts + out + ends * (bins + 1), all_ends)
    tl.store(total_sums + out + ends * (bins + 1), tails)
