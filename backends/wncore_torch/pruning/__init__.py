"""Pruning in torch, all experts of a layer at once; each module follows the one of its name in `wncore.pruning`.

Matrices are factorised in float64 whatever the dtype of the weights. Float32, after scaling to a unit diagonal, was
tried: with a ridge of 1e-3 the weights of real layers were up to 400 roundings off, and beyond 4,000 inputs its own
rounding exceeds that ridge, so that the ladder would be climbed where the definition does not. The sweep stays in
float64, too, because its rounding decides masks and grid levels, and so does least squares. ADMM, which only looks for
a mask, iterates in the dtype of the weights. Experts go in batches, so that memory beside the arguments stays bounded.
"""

import torch
from torch import Tensor

from wncore.pruning.cells import Cells
from wncore.pruning.methods import PruneSpec
from wncore_torch.pruning.alternating import admm
from wncore_torch.pruning.cells import select
from wncore_torch.pruning.damping import Damped, damp
from wncore_torch.pruning.greedy import obs
from wncore_torch.pruning.least_squares import resolve
from wncore_torch.pruning.sweep import sparsegpt

__all__ = ["prune", "resolve"]
BATCH = 2**27
"""Numbers in a batch of matrices: 1 GiB for each of the arrays that a method holds."""


@torch.no_grad()
def prune(w: Tensor, h: Tensor, spec: PruneSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Prune the matrices of k experts: (k, m, d), (k, d, d) -> (p, k, m, d), (k,) float64, (k,) int64."""
    m, d = w.shape[1:]
    cells = spec.cells(m, d)
    size = max(1, BATCH // (d * max(m, d)))
    ridges = torch.tensor(spec.ridges(len(w)), dtype=torch.float64)
    batches = zip(w.split(size), h.split(size), ridges.split(size), strict=True)
    done = [_prune_batch(*batch, cells, spec) for batch in batches]
    weights, ridge, raised = zip(*done, strict=True)
    return torch.cat(weights, dim=1), torch.cat(ridge), torch.cat(raised)


def _prune_batch(
    w: Tensor, h: Tensor, ridges: Tensor, cells: tuple[Cells, ...], spec: PruneSpec
) -> tuple[Tensor, Tensor, Tensor]:
    damped = damp(h, ridges.tolist(), spec.damping)
    weights = torch.stack([_prune_by(w, h, damped, each, spec).to(w.dtype) for each in cells])
    return weights, damped.ridge, damped.raised


def _prune_by(w: Tensor, h: Tensor, damped: Damped, cells: Cells, spec: PruneSpec) -> Tensor:
    if spec.method == "sparsegpt":
        weights, mask = sparsegpt(w, damped, cells, None, spec.bits, spec.bits_group)
    elif spec.method == "admm":
        weights, mask = admm(w, damped, cells, spec.iterations)
    else:
        mask = obs(w, damped, cells) if spec.method == "obs" else select(_score(w, h, spec.method), cells)
        weights = torch.where(mask, w, 0.0)
    if spec.bits and spec.method != "sparsegpt":
        return sparsegpt(w, damped, cells, mask, spec.bits, spec.bits_group)[0]
    if spec.resolved:
        weights = resolve(w, damped.h, mask)
    return weights if spec.bits else torch.where(mask.all(dim=2, keepdim=True), w, weights)


def _score(w: Tensor, h: Tensor, method: str) -> Tensor:
    if method == "magnitude":
        return w.abs()
    return w.abs().double() * h.diagonal(dim1=1, dim2=2).double().sqrt()[:, None]
