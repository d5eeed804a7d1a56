"""The loss of a search, OBS or ADMM, against that of the definition.

A search takes hundreds of decisions, each resting on the ones before, and one that is decided by rounding leads
elsewhere: its answer is neither right nor wrong to the digit, but its loss is no worse. Measured on 2,000 layers of up
to 17 x 40 weights: float32 finds the zeros of float64 on 99 in 100; on the others the root of its loss is within 1 %,
or 3 % where the matrix is nearly singular. So `LOSS` is allowed, and where that is not enough, what the definition
loses when its weights are changed by roundings. Where weights or inputs are equal, rounding decides everything, and the
loss is not judged.
"""

import numpy as np

from wncore.normal import Float
from wncore.pruning.loss import neuron_losses
from wncore.pruning.methods import prune_matrix
from wncore.testing.contracts.pruning.pruned import Pruned
from wncore.tolerance import arithmetic, budget, one_rounding

LOSS = 0.01
"""How much more the root of the loss may be, relative to the definition's."""
TRIES = 8
"""How many neighbours of the weights the definition is tried on, before a loss is too high."""


def judge_loss(case: Pruned) -> float:
    """Compare the root of the loss with the definition's, then with what that loses beside these weights."""
    if tied(case):
        return 0.0
    d, rng = len(case.h), np.random.default_rng(0)
    lost = loss(case, case.got)
    sizes = np.linalg.norm((np.abs(case.w) + np.abs(case.got)) @ case.unit)
    power = 1.0 if case.spec.method == "obs" or case.spec.bits else 0.5
    rounding = float(budget(arithmetic(case.dtype), d, sizes * case.condition**power))
    rounding += float(np.linalg.norm(one_rounding(case.got, case.dtype) @ case.unit))
    used = np.inf
    for size in [0.0] + [float(budget(arithmetic(case.dtype), d, 1.0))] * TRIES:
        near = case.w * (1 + size * rng.standard_normal(case.w.shape))
        want = loss(case, prune_matrix(near, case.damped, case.h, case.cells, case.spec))
        with np.errstate(divide="ignore"):
            used = min(used, (lost - want) / (LOSS * want + rounding) if lost > want else 0.0)
        if used <= 1:
            break
    return used


def loss(case: Pruned, weights: Float) -> float:
    """Return the root of the loss on the damped matrix, where dead inputs cost nothing."""
    h = np.where(np.diag(case.damped.dead), 0.0, case.damped.h)
    return float(np.sqrt(neuron_losses(weights - case.w, h).sum()))


def tied(case: Pruned) -> bool:
    """Say whether some weights are equally large, or some inputs equal; zeros cost nothing, unless they are rounded."""
    sizes, live = np.abs(case.w if case.spec.bits else case.w[case.w != 0]), case.h[:, ~case.damped.dead]
    return len(np.unique(sizes)) < sizes.size or len(np.unique(live.T, axis=0)) < live.shape[1]
