"""Pruning all experts of a layer, each from the dense weights on its own tokens' Gram matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

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
from wncore.pruning.ridges import Ridges, chosen_ridges, prune_by
from wncore.sums import ClusterSums


@dataclass(frozen=True, eq=False)
class PrunedExperts:
    """The experts of a layer for each of p patterns, and how their Gram matrices were made sound."""

    weights: list[NDArray]
    """By pattern, (k, m, d) in the dtype of the dump"""
    own: Float
    """(k,) share of each cluster's own Gram matrix; the rest is that of all tokens"""
    ridge: list[Float]
    """By pattern, (k,) of the kept weights, as used"""
    zeros_ridge: list[Float]
    """By pattern, (k,) that zeros were chosen by"""
    raised: list[NDArray[np.int64]]
    """By pattern, (k,)"""


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
    if ridge is None and spec.damping == "published":
        ridge = PUBLISHED_RIDGE
    fixed = None if ridge is None else Ridges(np.full(k, ridge), np.full(k, ridge))
    noise = expert_ridges(sums.tokens, d, own)
    ridges = [fixed or chosen_ridges(pattern, noise) for pattern in spec.patterns]
    grams, dense = shrink(sums.grams, sums.tokens, own), stored.astype(np.float64)
    dtype = "float64" if stored.dtype == np.float64 else "float32"
    at_once = experts_at_once(activations, spec.patterns, k)
    found: list[list[NDArray]] = [[] for _ in spec.patterns]
    used: list[list[NDArray]] = [[] for _ in spec.patterns]
    raised: list[list[NDArray]] = [[] for _ in spec.patterns]
    for first in range(0, k, at_once):
        part = slice(first, min(k, first + at_once))
        copies = np.broadcast_to(dense, (part.stop - first, *dense.shape))
        mine = [Ridges(one.zeros[part], one.weights[part]) for one in ridges]
        answers = prune_by(backend, backend.asarray(copies, dtype), grams[part], spec, mine)
        for i, (weights, its_ridge, its_raised) in enumerate(zip(*answers, strict=True)):
            found[i].append(as_stored(activations.layer, backend.to_numpy(weights), stored))
            used[i].append(its_ridge)
            raised[i].append(its_raised)
        activations.tick(part.stop - part.start)
    weights, ridge_used, raised_by = (
        [np.concatenate(parts) for parts in by_pattern] for by_pattern in (found, used, raised)
    )
    return PrunedExperts(weights, own, ridge_used, [one.zeros for one in ridges], raised_by)


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
