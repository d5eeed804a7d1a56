"""ADMM for all experts at once: one eigenproblem each, two products an iteration."""

import numpy as np
import torch
from torch import Tensor

from wncore.pruning.alternating import PENALTIES
from wncore_torch.precision import widened
from wncore_torch.pruning.cells import TorchCells
from wncore_torch.pruning.damping import Damped
from wncore_torch.pruning.repeated import repeat
from wncore_torch.pruning.steps import Steps


def admm(w: Tensor, damped: Damped, cells: TorchCells, steps: Steps, iterations: int) -> tuple[Tensor, Tensor]:
    """Find sparse layers as `wncore.pruning.alternating.admm` does: (k, m, d) -> (k, m, d), mask (k, m, d).

    In the dtype of the weights, half precision in float32; the unit of H, which may exceed its range, is taken out.
    """
    w = widened(w)
    eigenvalues, basis = (part.to(w.dtype) for part in damped.spectrum)
    eigenvalues, alive = eigenvalues[:, None], ~damped.dead[:, None]
    largest = (damped.unit * ~damped.dead).amax(dim=1, keepdim=True)
    unit = torch.where(damped.dead, 1.0, damped.unit / largest).to(w.dtype)[:, None]
    dense = w * unit * alive
    target = dense @ basis * eigenvalues
    mask = steps.select(dense.abs(), cells)
    sparse, dual = torch.where(mask, dense, 0.0), torch.zeros_like(dense)
    penalties, nothing = w.new_tensor(np.geomspace(*PENALTIES, iterations)), w.new_zeros(1)
    count = torch.zeros(1, dtype=torch.int64, device=w.device)

    def step() -> None:
        penalty = penalties.index_select(0, count)
        pull = torch.addcmul(dual, sparse, penalty, value=-1)
        close = torch.baddbmm(target, pull, basis, alpha=-1).div_(eigenvalues + penalty) @ basis.mT
        wanted = torch.addcdiv(close, dual, penalty)
        mask.copy_(steps.select(wanted.abs().mul_(alive), cells))
        torch.where(mask, wanted, nothing, out=sparse)
        dual.addcmul_(close.sub_(sparse), penalty)
        count.add_(1)

    repeat(step, iterations, w.device)
    return torch.where(alive & (unit > 0), sparse / unit, w * mask), mask
