"""How one pruned matrix is judged.

* Zeros: each cell has as many as were asked for, and more only where a weight was zero before or is rounded to zero.
* Scores: magnitudes have no rounding, so the zeros are those of the definition. Those of Wanda and SparseGPT do, so
  the weights pruned in a cell may not cost more, in all, than the cheapest ones. SparseGPT's scores depend on what was
  pruned to the left: the definition's sweep is replayed with the answer's own zeros.
* Weights: to the bit without compensation; re-solved, by the normal equations; else as far as the condition allows;
  rounded to a grid, by `levels`.
* OBS and ADMM are judged by their `loss`.
"""

import numpy as np

from wncore.normal import Float
from wncore.pruning.cells import select
from wncore.pruning.scores import magnitude_score, wanda_score
from wncore.pruning.sweep import sparsegpt
from wncore.testing.contracts.pruning.choice import Choice
from wncore.testing.contracts.pruning.levels import Levels
from wncore.testing.contracts.pruning.loss import judge_loss
from wncore.testing.contracts.pruning.pruned import Pruned
from wncore.testing.contracts.resolving import normal_equations
from wncore.tolerance import arithmetic, one_rounding, only_if, share


def judge_matrix(case: Pruned) -> dict[str, float]:
    """Return the share that each property of the answer uses."""
    if not np.isfinite(case.got).all():
        return {"finite numbers": np.inf}
    rounded = Levels(case, case.spec.bits) if case.spec.bits else None
    choice = Choice(case, rounded.forced if rounded else (case.got == 0) & (case.w != 0))
    want = walk(case, choice, rounded)
    shares = {"zeros": only_if(choice.exact)}
    if case.spec.method in ("obs", "admm"):
        shares["loss"] = judge_loss(case)
    else:
        shares["scores"] = judge_scores(case, choice)
    if rounded:
        return shares | {"levels": rounded.used}
    whole = (case.got != 0).all(axis=1) | (case.cells.counts.sum(axis=1) == 0)
    shares["rows that lose nothing"] = only_if(np.array_equal(case.got[whole], case.w[whole]))
    return shares | {"weights": judge_weights(case, want)}


def walk(case: Pruned, choice: Choice, rounded: Levels | None) -> Float:
    """Show the choice all cells, with the costs of their weights when they are reached; return what a sweep leaves."""
    if case.spec.method == "sparsegpt" and not rounded:
        return sparsegpt(case.w, case.damped, case.cells, choice)[0]
    costs = (wanda_score(case.w, case.h) if case.spec.method == "wanda" else magnitude_score(case.w)) ** 2
    for c in range(case.cells.counts.shape[1]):
        span = case.cells.span(c)
        if rounded and case.spec.method == "sparsegpt":
            costs = rounded.costs(span.start)
        choice(costs[:, span], c)
    return case.w


def judge_scores(case: Pruned, choice: Choice) -> float:
    """Ask for the zeros of the definition where scores have no rounding, elsewhere for cheap ones."""
    if case.spec.method == "magnitude":
        return only_if(not case.got[~select(magnitude_score(case.w), case.cells)].any())
    return choice.used


def judge_weights(case: Pruned, want: Float) -> float:
    """Judge the kept weights of a method; those of ADMM by their loss, to which dead inputs add nothing: they stay."""
    kept = case.got != 0
    if case.spec.resolve:
        return normal_equations(case.got, case.w, case.damped.h, kept, case.dtype)
    if case.spec.method == "obs":  # its inverses lose as many digits as the condition has
        return normal_equations(case.got, case.w, case.damped.h, kept, case.dtype) / case.condition
    if case.spec.method == "sparsegpt":
        stored = one_rounding(case.got, case.dtype)
        return share(case.got, want, arithmetic(case.dtype), len(case.h), case.reach / case.unit, stored)
    stay = kept & (case.damped.dead | (case.spec.method != "admm"))
    return only_if(np.array_equal(case.got[stay], case.w[stay]))
