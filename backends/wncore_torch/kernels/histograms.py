"""Histograms in CUDA C++; histogram.cu says how."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wncore_torch.kernels.cuda import launch, shared_memory
from wncore_torch.kernels.folding import can_fold, fold
from wncore_torch.plain.histograms import histogram as sorted_histogram
from wncore_torch.plain.histograms import histogram_runs as sorted_runs

HOW = "CUDA; more bins than fit into shared memory (about 8,000) in plain torch, and by runs all but powers of two"
THREADS = 1024
ALONE, SHARES = 2**15, 4
"""Tokens from which on blocks of the grid share those of a neuron, one for so many, at most so many blocks. How many
neurons there are does not matter, so that sums come out the same."""


@dataclass(frozen=True)
class Plan:
    """How a block of the kernel divides its work."""

    neurons: int
    """Neurons that it counts at once, a power of 2."""
    cells: int
    """Cells of a neuron's guide table, a power of 2."""
    shared: int
    """Shared memory, in bytes."""


def plan(bins: int, available: int) -> Plan | None:
    """Plan for as many neurons as shared memory has room for, at most 8 (32 bytes of a row); None if for none."""
    cells = 1 << (2 * bins - 1).bit_length()
    each = 8 * (bins + 1) + 16 * bins + 2 * (cells + 1)
    for neurons in (8, 4, 2, 1):
        shared = max(neurons * each, 8 * THREADS)
        if shared <= available:
            return Plan(neurons, cells, shared)
    return None


def histogram(y: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count in one read of the outputs: (n, m), (m, b + 1) -> as in the protocol."""
    state = State.of(edges, len(y)) if len(edges) else None
    if state is None:
        return sorted_histogram(y, edges)
    state.add(y)
    return state.result()


def histogram_runs(y: Tensor, edges: Tensor, starts: Tensor, factor: int) -> tuple[Tensor, ...]:
    """Count all runs in one launch, join and add them in another: (n, m), (m, b + 1), (p + 1,) -> as in the protocol.

    What comes out has the bits of `histogram` run by run, `coarsen`, and sums along `wncore.layers.pieces.TreeSum`.
    """
    bins = edges.shape[1] - 1
    state = State.of(edges, 0, runs=len(starts) - 1) if len(edges) and can_fold(len(starts) - 1, bins, factor) else None
    if state is None:
        return sorted_runs(y, edges, starts, factor)
    state.add(y, starts=starts.contiguous())
    return fold(state.edges, state.counts, state.sums, state.powers, factor)


@dataclass(frozen=True, eq=False)
class State:
    """Sums that grow by one batch of outputs after another: counts and sums (s, m, b + 2), powers (s, m, 4)."""

    plan: Plan
    edges: Tensor
    counts: Tensor
    sums: Tensor
    powers: Tensor

    @classmethod
    def of(cls, edges: Tensor, tokens: int, runs: int = 0) -> Self | None:
        """Start for batches of so many tokens, each shared out over s blocks; None if there are too many bins.

        With `runs`, there is one batch, and each of its runs is a share.
        """
        (m, bins), edges = (edges.shape[0], edges.shape[1] - 1), edges.contiguous()
        chosen = plan(bins, shared_memory(edges.device))
        if chosen is None:
            return None
        shares = runs or max(1, min(tokens // ALONE, SHARES))
        counts = torch.zeros(shares, m, bins + 2, dtype=torch.int64, device=edges.device)
        sums, powers = torch.zeros_like(counts, dtype=torch.float64), edges.new_zeros(shares, m, 4)
        return cls(chosen, edges, counts, sums, powers)

    def add(self, y: Tensor, bias: Tensor | None = None, starts: Tensor | None = None) -> None:
        """Count a batch (n, m), each neuron moved by its bias (m,) float64; shares end where `starts` (s + 1,) says."""
        if not y.numel():
            return
        (shares, m, slots), neurons = self.counts.shape, self.plan.neurons
        shares = shares if starts is not None else min(shares, len(y))
        given = [self.edges if one is None else one for one in (bias, starts)]
        args = [y, self.edges, *given, self.counts, self.sums, self.powers]
        args += [len(y), m, slots - 2, *y.stride(), int(bias is not None), int(starts is not None)]
        defined = {"THREADS": THREADS, "NEURONS": neurons, "CELLS": self.plan.cells}
        launch("histogram", y.dtype, (-(-m // neurons), shares), THREADS, self.plan.shared, args, **defined)

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Add up over the shares."""
        if len(self.counts) == 1:
            return self.counts[0], self.sums[0], self.powers[0]
        return self.counts.sum(dim=0), self.sums.sum(dim=0), self.powers.sum(dim=0)
