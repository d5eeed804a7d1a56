"""All methods of pruning, behind one function that takes the steps which may have kernels."""

import torch
from torch import Tensor

from wncore.pruning.methods import PruneSpec
from wncore_torch.precision import widened
from wncore_torch.pruning.alternating import admm
from wncore_torch.pruning.cells import TorchCells
from wncore_torch.pruning.damping import Damped, damp
from wncore_torch.pruning.greedy import obs
from wncore_torch.pruning.least_squares import resolve
from wncore_torch.pruning.steps import Steps
from wncore_torch.pruning.sweep import sparsegpt

HOST_BATCH, DEVICE_BATCH = 2**27, 2**28
"""Numbers in a batch of matrices: 1 GiB on the CPU, 2 GiB elsewhere for each of the arrays that a method holds.

At their peak these are, in float64 arrays of a batch, (k, d, d) and (k, m, d) each: 2 and 0 for the ridge, 3 and 5 for
a sweep, 4 and 0 for OBS, 5 and 0 for ADMM beside 8 (k, m, d) in the dtype of the weights, half as many again on a GPU,
where its step is recorded, and 1 and 4 for re-solving;
those of the method stay while the batch does. OBS and re-solving have blocks of rows of their own.
"""


@torch.no_grad()
def prune_by(w: Tensor, h: Tensor, spec: PruneSpec, steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
    """Prune the matrices of k experts: (k, m, d), (k, d, d) -> (p, k, m, d), (k,) float64, (k,) int64."""
    k, m, d = w.shape
    patterns = [TorchCells.of(cells, m, w.device) for cells in spec.cells(m, d)]
    batch = HOST_BATCH if w.device.type == "cpu" else DEVICE_BATCH
    asked, size = spec.ridges(k), max(1, batch // (d * max(m, d)))
    out = w.new_empty(len(patterns), k, m, d)
    ridge, raised = h.new_empty(k), torch.empty(k, dtype=torch.int64, device=h.device)
    for first in range(0, k, size):
        batch = slice(first, first + size)
        damped = damp(h[batch], asked[batch], spec.damping)
        ridge[batch], raised[batch] = damped.ridge, damped.raised
        for cells, sparse in zip(patterns, out, strict=True):
            sparse[batch] = _prune_batch(w[batch], damped, cells, spec, steps)
    return out, ridge, raised


def _prune_batch(w: Tensor, damped: Damped, cells: TorchCells, spec: PruneSpec, steps: Steps) -> Tensor:
    if spec.method == "sparsegpt":
        weights, mask = sparsegpt(w, damped, cells, steps, None, spec.bits, spec.bits_group)
    elif spec.method == "admm":
        weights, mask = admm(w, damped, cells, steps, spec.iterations)
    else:
        mask = obs(w, damped, cells) if spec.method == "obs" else steps.select(_scores(w, damped, spec.method), cells)
        weights = torch.where(mask, w, 0.0)
    if spec.bits and spec.method != "sparsegpt":
        return sparsegpt(w, damped, cells, steps, mask, spec.bits, spec.bits_group)[0]
    if spec.resolved:
        weights = resolve(w, damped.h, mask)
    return weights if spec.bits else torch.where(mask.all(dim=2, keepdim=True), w, weights)


def _scores(w: Tensor, damped: Damped, method: str) -> Tensor:
    """Score each weight alone, by its size or by Wanda."""
    if method == "magnitude":
        return widened(w).abs()
    return w.abs().double() * damped.gram.diagonal(dim1=1, dim2=2).double().sqrt()[:, None]
