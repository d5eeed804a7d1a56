"""ADMM for all experts at once: one eigenproblem each, two products an iteration."""

import numpy as np
import torch
from torch import Tensor

from wncore.pruning.alternating import PENALTIES
from wncore.pruning.cells import Cells
from wncore_torch.pruning.cells import select
from wncore_torch.pruning.damping import Damped


def admm(w: Tensor, damped: Damped, cells: Cells, iterations: int) -> tuple[Tensor, Tensor]:
    """Find sparse layers as `wncore.pruning.alternating.admm` does: (k, m, d) -> (k, m, d), mask (k, m, d)."""
    eigenvalues, basis = (part.to(w.dtype) for part in damped.spectrum)
    eigenvalues, unit, alive = eigenvalues[:, None], damped.unit.to(w.dtype)[:, None], ~damped.dead[:, None]
    dense = w * unit * alive
    target = dense @ basis * eigenvalues
    mask = select(dense.abs(), cells)
    sparse, dual = torch.where(mask, dense, 0.0), torch.zeros_like(dense)
    for penalty in np.geomspace(*PENALTIES, iterations).tolist():
        close = (target + (penalty * sparse - dual) @ basis) / (eigenvalues + penalty) @ basis.mT
        wanted = close + dual / penalty
        mask = select(wanted.abs() * alive, cells)
        sparse = torch.where(mask, wanted, 0.0)
        dual += penalty * (close - sparse)
    return torch.where(alive, sparse / unit, w * mask), mask
