"""Pruning in torch, all experts of a layer at once; each module follows the one of its name in `wncore.pruning`.

Matrices are factorised in float64 whatever the dtype of the weights. Float32, after scaling to a unit diagonal, was
tried: with a ridge of 1e-3 the weights of real layers were up to 400 roundings off, and beyond 4,000 inputs its own
rounding exceeds that ridge, so that the ladder would be climbed where the definition does not. The sweep stays in
float64, too, because its rounding decides masks and grid levels, and so does least squares. ADMM, which only looks for
a mask, iterates in the dtype of the weights, half precision in float32.
"""

from torch import Tensor

from wncore.pruning.methods import PruneSpec
from wncore_torch.pruning.least_squares import resolve
from wncore_torch.pruning.loss import neuron_losses
from wncore_torch.pruning.methods import prune_by
from wncore_torch.pruning.steps import PLAIN

__all__ = ["neuron_losses", "prune", "resolve"]


def prune(w: Tensor, h: Tensor, spec: PruneSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Prune the matrices of k experts: (k, m, d), (k, d, d) -> (p, k, m, d), (k,) float64, (k,) int64."""
    return prune_by(w, h, spec, PLAIN)
