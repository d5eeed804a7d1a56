"""What experts lose: together, by neuron and by expert, on the tokens that they were fitted to and on others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.normal import Float
from wncore.pruning.loss import expert_losses, ratio
from wncore.sums import ClusterSums


@dataclass(frozen=True, eq=False)
class ExpertErrors:
    """Relative errors, sums over the tokens X_c of each expert c: sum ||(W_c - W) X_c||^2 / sum ||W X_c||^2."""

    relative_error: float
    relative_error_holdout: float | None
    neuron_error: Float
    """(m,)"""
    neuron_error_holdout: Float | None
    expert_error: Float
    """(k,) each on its own tokens; NaN where it has none"""
    expert_error_holdout: Float | None


def expert_errors(weights: NDArray, dense: NDArray, sums: ClusterSums, backend: Backend) -> ExpertErrors:
    """Judge experts by the Gram matrices of their tokens: (k, m, d), (m, d) -> `ExpertErrors`."""
    total, neuron, expert = _errors(weights, dense, sums.grams, sums.tokens, backend)
    if sums.holdout is None:
        return ExpertErrors(total, None, neuron, None, expert, None)
    held_total, held_neuron, held_expert = _errors(weights, dense, sums.holdout, sums.holdout_tokens, backend)
    return ExpertErrors(total, held_total, neuron, held_neuron, expert, held_expert)


def relative_improvement(one: Float, many: Float) -> Float:
    """Return RMSE(dense, one expert) / RMSE(dense, k experts) from the neurons' relative errors: (m,), (m,) -> (m,).

    1 where neither loses anything, infinite where only the experts lose nothing. Source: arXiv:2405.15756, section 5.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(one == many, 1.0, np.sqrt(one / many))


def _errors(
    weights: NDArray, dense: NDArray, grams: Float, tokens: NDArray[np.int64], backend: Backend
) -> tuple[float, Float, Float]:
    lost, whole = expert_losses(weights, dense, grams, backend)
    expert = np.where(tokens > 0, ratio(lost.sum(axis=1), whole.sum(axis=1)), np.nan)
    return float(ratio(lost.sum(), whole.sum())), ratio(lost.sum(axis=0), whole.sum(axis=0)), expert
