"""Pruning all experts of a layer, each from the dense weights on its own tokens' Gram matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wncore.errors import MemoryBudgetError
from wncore.experts.starvation import expert_ridges, own_share, shrink
from wncore.layer_pruning import as_stored
from wncore.layers.activations import Activations
from wncore.normal import Float
from wncore.pruning.damping import PUBLISHED_RIDGE
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import Pattern
from wncore.sums import ClusterSums


@dataclass(frozen=True, eq=False)
class PrunedExperts:
    """The experts of a layer for each of p patterns, and how their Gram matrices were made sound."""

    weights: list[NDArray]
    """By pattern, (k, m, d) in the dtype of the dump"""
    own: Float
    """(k,) share of each cluster's own Gram matrix; the rest is that of all tokens"""
    ridge: Float
    """(k,) as used"""
    raised: NDArray[np.int64]
    """(k,)"""


def prune_experts(
    activations: Activations,
    stored: NDArray,
    sums: ClusterSums,
    spec: PruneSpec,
    *,
    prior: float,
    ridge: float | None = None,
) -> PrunedExperts:
    """Prune the dense weights (m, d), as the dump stores them, once for each cluster and pattern.

    As many experts go to the backend at a time as fit into the memory that is allowed.

    Raises
    ------
    MemoryBudgetError
        If not even one fits.
    WncoreError
        As `wncore.pruning.methods.prune` and `as_stored`.
    """
    backend, (k, d) = activations.backend, sums.grams.shape[:2]
    own = own_share(sums.tokens, d, prior) if k > 1 else np.ones(1)  # one cluster is all there is to borrow from
    ridges = np.full(k, PUBLISHED_RIDGE if ridge is None else ridge)
    if ridge is None and spec.damping != "published":
        ridges = expert_ridges(sums.tokens, d, own)
    grams, dense = shrink(sums.grams, sums.tokens, own), stored.astype(np.float64)
    dtype = "float64" if stored.dtype == np.float64 else "float32"
    at_once = experts_at_once(activations, spec.patterns, k)
    found: list[list[NDArray]] = [[] for _ in spec.patterns]
    used: list[tuple[NDArray, NDArray]] = []
    for first in range(0, k, at_once):
        part = slice(first, min(k, first + at_once))
        copies = np.broadcast_to(dense, (part.stop - first, *dense.shape))
        weights, *damping = map(
            backend.to_numpy,
            backend.prune(
                backend.asarray(copies, dtype),
                backend.asarray(grams[part], "float64"),
                replace(spec, ridge=tuple(ridges[part].tolist())),
            ),
        )
        for mine, one in zip(found, weights, strict=True):
            mine.append(as_stored(activations.layer, one, stored))
        used.append((damping[0], damping[1]))
        activations.tick(part.stop - part.start)
    ridge_used, raised = (np.concatenate(parts) for parts in zip(*used, strict=True))
    return PrunedExperts([np.concatenate(mine) for mine in found], own, ridge_used, raised)


def experts_at_once(activations: Activations, patterns: Sequence[Pattern], k: int, others: int = 0) -> int:
    """Return how many of k experts can be pruned in one call, while `others` of each pattern are held beside them.

    Raises
    ------
    MemoryBudgetError
        If not even one can, beside the Gram matrices of all.
    """
    (m, d), p, memory = activations.shape, len(patterns), activations.memory
    held = 8 * 5 * k * d * d + activations.weight.itemsize * (k + others) * p * m * d
    once = 8 * (8 * d * d + (10 + 3 * p) * m * d)
    each = 8 * d * d + 8 * (1 + p) * m * d
    if held + once + each > memory:
        need = held + once + each
        raise MemoryBudgetError(
            f"{activations.name}: {k} experts of {m} neurons and {d} inputs take about {need / 2**20:.0f} MiB, and "
            f"{memory / 2**20:.0f} are allowed; give --memory {-(-need // 2**20)}MiB, or fewer --experts"
        )
    return min(k, 1 + (memory - held - once - each) // each)
