"""A step of Lloyd's algorithm in CUDA C++; lloyd.cu says how."""

import torch
from torch import Tensor

from wncore_torch.kernels.cuda import launch, processors, shared_memory
from wncore_torch.plain.clusters import lloyd as plain_lloyd
from wncore_torch.precision import widened

HOW = "CUDA for float32 and half precision, up to 256 clusters that fit into shared memory; others in plain torch"
TILE, GROUP, THREADS, TEAMS = 128, 16, 256, 2
"""Points in shared memory, clusters that are measured at once, threads, and halves of a tile that are summed up."""
SIZES = {"TILE": TILE, "GROUP": GROUP, "THREADS": THREADS, "TEAMS": TEAMS}
LONGEST = 8
"""Tiles whose sums are float32, at most; those of the runs are float64."""


def lloyd(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Label and sum up in one read of the points: (n, r), (k, r) -> (n,), (k, r), (k,), (k,)."""
    (n, r), k = x.shape, len(centroids)
    rows = TILE + -(-k // GROUP) * GROUP
    shared = 4 * (rows * (-(-r // 4) * 4 + 4) + TEAMS * k * r + 3 * TILE + 2 * k)
    if x.dtype == torch.float64 or k > THREADS or shared > shared_memory(x.device) or not n:
        return plain_lloyd(x, centroids)
    tiles = -(-n // TILE)
    run = TILE * min(LONGEST, -(-tiles // (4 * processors(x.device))))
    labels = torch.empty(n, dtype=torch.int64, device=x.device)
    parts = torch.empty(-(-n // run), k * (r + 2), dtype=torch.float64, device=x.device)
    aligned = x.dtype == torch.float32 and x.stride(1) == 1 and not (r % 4 or x.stride(0) % 4 or x.data_ptr() % 16)
    args = [x, widened(centroids).contiguous(), labels, parts, n, r, k, run, *x.stride(), int(aligned)]
    launch("lloyd", x.dtype, (len(parts), 1), THREADS, shared, args, **SIZES)
    sums, counts, inertia = parts.sum(0).split([k * r, k, k])
    return labels, sums.view(k, r), counts.long(), inertia
