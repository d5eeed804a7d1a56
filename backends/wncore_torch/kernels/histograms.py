"""Histograms in CUDA C++ (histogram.cu says how), compiled at first use by the compiler that torch brings along."""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Self

import torch
from torch import Tensor

from wncore_torch.plain.histograms import histogram as sorted_histogram

HOW = "CUDA; more bins than fit into shared memory (about 8,000) in plain torch"
THREADS = 1024
STORED = {
    torch.float64: ("double", "v"),
    torch.float32: ("float", "(double)v"),
    torch.bfloat16: ("unsigned short", "(double)__uint_as_float((unsigned)v << 16)"),
    torch.float16: ("unsigned short", "half_to_double(v)"),
}
"""How a number lies in memory, and how it is read."""
HALF = """
__device__ double half_to_double(unsigned short v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
    return f;
}
"""


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
    state = State.of(edges, len(y))
    if state is None:
        return sorted_histogram(y, edges)
    state.add(y)
    return state.result()


@dataclass(frozen=True, eq=False)
class State:
    """Sums that grow by one batch of outputs after another: counts and sums (s, m, b + 2), powers (s, m, 4)."""

    plan: Plan
    edges: Tensor
    counts: Tensor
    sums: Tensor
    powers: Tensor

    @classmethod
    def of(cls, edges: Tensor, tokens: int) -> Self | None:
        """Start for batches of so many tokens, each shared out over s blocks; None if there are too many bins."""
        device = torch.cuda.get_device_properties(edges.device)
        (m, bins), edges = (edges.shape[0], edges.shape[1] - 1), edges.contiguous()
        chosen = plan(bins, device.shared_memory_per_block_optin)
        if chosen is None:
            return None
        blocks = -(-m // chosen.neurons)
        shares = max(1, min(tokens // 4096, -(-4 * device.multi_processor_count // blocks)))
        counts = torch.zeros(shares, m, bins + 2, dtype=torch.int64, device=edges.device)
        sums, powers = torch.zeros_like(counts, dtype=torch.float64), edges.new_zeros(shares, m, 4)
        return cls(chosen, edges, counts, sums, powers)

    def add(self, y: Tensor, bias: Tensor | None = None) -> None:
        """Count a batch (n, m), each neuron moved by its bias (m,) float64."""
        if not y.numel():
            return
        (shares, m, slots), neurons = self.counts.shape, self.plan.neurons
        shares = min(shares, len(y))
        with torch.cuda.device(y.device):
            kernel = _compiled(y.dtype, neurons, self.plan.cells, y.device.index or torch.cuda.current_device())
            kernel.set_shared_memory_config(self.plan.shared)
            kernel(
                grid=(-(-m // neurons), shares, 1),
                block=(THREADS, 1, 1),
                args=[
                    *(y, self.edges, self.edges if bias is None else bias, self.counts, self.sums, self.powers),
                    *(len(y), m, slots - 2, *y.stride(), int(bias is not None)),
                ],
                shared_mem=self.plan.shared,
            )

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Add up over the shares."""
        return self.counts.sum(dim=0), self.sums.sum(dim=0), self.powers.sum(dim=0)


@lru_cache(maxsize=32)
def _compiled(dtype: torch.dtype, neurons: int, cells: int, device: int) -> Any:
    """Compile for a device, which must be the current one."""
    stored, read = STORED[dtype]
    chosen = {"VALUE": stored, "READ(v)": f"({read})", "NEURONS": neurons, "CELLS": cells, "THREADS": THREADS}
    source = files("wncore_torch.kernels").joinpath("histogram.cu").read_text()
    head = "".join(f"#define {name} {value}\n" for name, value in chosen.items()) + HALF
    return torch.cuda._compile_kernel(head + source, "histogram")  # pyright: ignore[reportAttributeAccessIssue]
