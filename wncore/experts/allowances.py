"""How far recomputed numbers on experts may be from the recorded ones, where the two runs do not round alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.experts.borderline import Borderline
from wncore.normal import Float
from wncore.pruning.loss import neuron_losses
from wncore.sums import ClusterSums
from wncore.tolerance import budget


@dataclass(frozen=True, eq=False)
class Allowances:
    """For the tokens to calibrate by (index 0), and those held out (index 1)."""

    borderline: Borderline
    error: Float
    """(2,) of the relative error"""
    expert_error: Float
    """(2, k)"""


def allowances(weights: NDArray, dense: NDArray, sums: ClusterSums, borderline: Borderline, dtype: str) -> Allowances:
    """Derive them: experts (k, m, d), dense weights (m, d), inputs of `dtype`.

    Lost and whole, tr(D H D') and tr(W H W') with D = W_c - W, are off by what rounding does to H, and by the
    borderline tokens. Entry H_ij, a sum over n tokens, may be off by b sqrt(H_ii H_jj) with b = 8 sqrt(4 n) u (8 n u in
    float64, where errors may march in step: the contract of `gram`). Entries err independently, so that lost is off by
    b sum_ij D_ij^2 H_jj; twice that, since both runs round. A quotient of lost and whole, each off by l and w, is off
    by (l + error w) / (whole - w).
    """
    halves = [(sums.grams, sums.tokens)]
    if sums.holdout is not None:
        halves.append((sums.holdout, sums.holdout_tokens))
    error, expert_error = np.zeros(2), np.zeros((2, len(weights)))
    for half, (grams, tokens) in enumerate(halves):
        with np.errstate(over="ignore", invalid="ignore"):
            lost, whole, lost_off, whole_off = _sums(weights, dense, grams, tokens, dtype)
            error[half] = quotient_off(
                lost.sum(), whole.sum(), lost_off.sum() + borderline.swing[half], whole_off.sum()
            )
            moved = lost_off + borderline.lost[half], whole_off + borderline.whole[half]
            expert_error[half] = quotient_off(lost, whole, *moved)
    return Allowances(borderline, error, expert_error)


def quotient_off(lost: ArrayLike, whole: ArrayLike, lost_off: ArrayLike, whole_off: ArrayLike) -> Float:
    """Return how far lost / whole may be off; without limit if all of whole may be gone.

    >>> float(quotient_off(1.0, 5.0, 0.5, 1.0))
    0.175
    """
    over, under, over_off, under_off = (np.asarray(x, np.float64) for x in (lost, whole, lost_off, whole_off))
    with np.errstate(divide="ignore", invalid="ignore"):
        off = (over_off + over / under * under_off) / (under - under_off)
    return np.where(under > under_off, off, np.where(over_off + under_off > 0, np.inf, 0.0))


def _sums(weights: NDArray, dense: NDArray, grams: Float, tokens: NDArray[np.int64], dtype: str) -> Float:
    """Return lost, whole, and how far rounding may put each off: (4, k)."""
    found, before, d = np.zeros((4, len(weights))), dense.astype(np.float64), dense.shape[1]
    for c, gram in enumerate(grams):
        terms = (tokens[c] + d) ** 2 if dtype == "float64" else 4 * max(1, tokens[c])
        for i, rows in enumerate((weights[c].astype(np.float64) - before, before)):
            found[i, c] = neuron_losses(rows, gram).sum()
            found[2 + i, c] = 2 * budget(dtype, terms, (np.square(rows) @ gram.diagonal()).sum())
    return found
