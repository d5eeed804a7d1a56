"""A step of Lloyd's algorithm in CUDA C++; lloyd.cu says how."""

import torch
from torch import Tensor

from wncore_torch.kernels.cuda import launch, processors, shared_memory
from wncore_torch.plain.clusters import lloyd as plain_lloyd
from wncore_torch.precision import widened

HOW = "CUDA for float32 and half precision, centroids that fit into shared memory; others in plain torch"
WARPS, TEAMS, BLOCKS = 8, 2, 1
"""Warps of a block, with 16 points each; teams that sum up a part of a tile; blocks with room in a multiprocessor."""
GROUP = 16
"""Centroids that are measured at once."""
LONGEST = 1024
"""Points whose sums are float32, at most; those of the runs are float64."""


def lloyd(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Label and sum up in one read of the points: (n, r), (s, k, r) -> (s, n), (s, k, r), (s, k), (s, k)."""
    n, (s, k, r) = len(x), centroids.shape
    tile, padded = 16 * WARPS, -(-k // GROUP) * GROUP
    pitch = -(-r // 8) * 8 + 4
    shared = 4 * ((tile + padded + 1) * pitch + padded + TEAMS * k * r + 2 * tile + (3 + WARPS) * k + 1)
    if x.dtype == torch.float64 or k > 2**15 or shared > shared_memory(x.device) or not n:
        return plain_lloyd(x, centroids)
    tiles = -(-n // tile)
    run = tile * min(LONGEST // tile, -(-tiles * s // (4 * BLOCKS * processors(x.device))))
    labels = torch.empty(s, n, dtype=torch.int64, device=x.device)
    parts = torch.empty(s, -(-n // run), k * (r + 2), dtype=torch.float64, device=x.device)
    wide = widened(centroids).contiguous()
    middles = wide.kthvalue(k // 2 + 1, dim=1).values
    aligned = x.dtype == torch.float32 and x.stride(1) == 1 and not (r % 4 or x.stride(0) % 4 or x.data_ptr() % 16)
    args = [x, wide, middles, labels, parts, n, r, k, s, run, *x.stride(), int(aligned)]
    sizes = {"WARPS": WARPS, "TEAMS": TEAMS, "BLOCKS": BLOCKS}
    launch("lloyd", x.dtype, (s * parts.shape[1], 1), 32 * WARPS, shared, args, **sizes)
    sums, counts, inertia = parts.sum(1).split([k * r, k, k], dim=1)
    return labels, sums.view(s, k, r), counts.long(), inertia
