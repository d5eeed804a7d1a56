"""Pruning whose sweeps and selections run in kernels."""

from torch import Tensor

from wncore.pruning.methods import PruneSpec
from wncore_torch.kernels.selection import NARROW, select
from wncore_torch.kernels.sweep import sweep_panel
from wncore_torch.pruning.methods import prune_by
from wncore_torch.pruning.steps import Steps

FUSED = Steps(select, sweep_panel)
HOW = f"Triton for sweeps, and for cells of all rows or of up to {NARROW} columns of one; else plain torch"


def prune(w: Tensor, h: Tensor, spec: PruneSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Prune the matrices of k experts: (k, m, d), (k, d, d) -> (p, k, m, d), (k,) float64, (k,) int64."""
    return prune_by(w, h, spec, FUSED)
