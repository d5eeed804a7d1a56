"""Which ridges: enough for the noise of the tokens, and for other text than theirs.

A Gram matrix tells of the text that it was summed over. That few tokens tell it inexactly costs about d / n
(`wncore.pruning.damping.chosen_ridge`); that the model will read *other* text costs more, and no number of tokens of
the same text helps. A ridge holds against both: the larger it is, the closer kept weights stay to the dense ones, and
the more the choice of zeros looks at each weight alone. What it may cost falls with what there is to make up for, so
two ridges are used: one to choose zeros by, and one for the weights that are kept, smaller the more of the layer is
gone. The numbers were found on a language model and two kinds of text (docs/benchmarks.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri

from wncore.backend import Array, Backend
from wncore.normal import Float
from wncore.pruning.damping import add_ridge
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import Pattern, SemiStructured, Unstructured

HALF = 0.25
"""For the kept weights, where half of all are pruned by size; the most that any pattern gets."""
ZEROS = 0.2
"""To choose zeros by, at least."""
POWER = 1.5
LEAST = 0.01
CELLS = 2**12


@dataclass(frozen=True, eq=False)
class Ridges:
    """The ridges of k experts, each relative to an input's own H_jj."""

    zeros: Float
    """(k,) by which zeros are chosen"""
    weights: Float
    """(k,) by which kept weights are solved for"""


def chosen_ridges(pattern: Pattern, noise: ArrayLike) -> Ridges:
    """Choose ridges by what a pattern takes away, none below what the tokens' noise (k,) asks for.

    >>> ridges = chosen_ridges(SemiStructured(2, 4), noise=[0.01, 0.5])
    >>> ridges.zeros.tolist(), ridges.weights.round(3).tolist()
    ([0.2, 0.5], [0.099, 0.5])
    """
    lost, half = removed_energy(pattern), removed_energy(Unstructured(0.5))
    shift = HALF if lost <= half else max(LEAST, HALF * (half / lost) ** POWER)
    weights = np.maximum(shift, np.asarray(noise, np.float64))
    return Ridges(np.maximum(ZEROS, weights), weights)


@lru_cache(maxsize=16)
def removed_energy(pattern: Pattern) -> float:
    """Return the share of their squares that a pattern takes from Gaussian weights, the smallest first.

    Of a group of M the N largest are kept: a weight at the quantile p of all sizes goes if fewer than M - N of the
    others are smaller. Without groups it goes if p < s; of sparsities by neuron the mean is meant.

    >>> round(removed_energy(SemiStructured(2, 4)), 3)
    0.132
    """
    p = (np.arange(CELLS) + 0.5) / CELLS
    if isinstance(pattern, SemiStructured):
        gone: NDArray[Any] = bdtr(pattern.of - pattern.kept - 1, pattern.of - 1, p)
        gone = np.nan_to_num(gone) if pattern.kept < pattern.of else np.zeros(CELLS)
    else:
        gone = np.clip(np.mean(pattern.shares) * CELLS - np.arange(CELLS), 0, 1)
    squares = np.square(ndtri((1 + p) / 2))
    return float(np.sum(squares * gone) / np.sum(squares))


def prune_by(
    backend: Backend, w: Array, grams: Float, spec: PruneSpec, ridges: Sequence[Ridges]
) -> tuple[list[Array], list[Float], list[NDArray[np.int64]]]:
    """Prune the matrices of k experts by each of p patterns, with its ridges: (k, m, d), (k, d, d).

    Returns the weights of each pattern (k, m, d), the ridge that they were solved with (k,), and how often that of the
    zeros had to be raised (k,). What is rounded to a grid, or not re-solved, has one ridge, that of the zeros.

    Raises
    ------
    InputError, ShapeError
        As `wncore.pruning.methods.prune`.
    """
    h = backend.asarray(grams, "float64")
    found: list[tuple[Array, Float, NDArray[np.int64]]] = []
    for patterns, own in _with_one_factorisation(spec.patterns, ridges):
        twice = [spec.resolved and not np.array_equal(one.zeros, one.weights) for one in own]
        once = replace(spec, patterns=patterns, ridge=tuple(own[0].zeros.tolist()))
        once = replace(once, resolve=spec.resolve and not any(twice))
        pruned, *damping = backend.prune(w, h, once)
        used, raised = map(backend.to_numpy, damping)
        for weights, one, again in zip(pruned, own, twice, strict=True):
            ridge = used
            if again:
                ridge = np.where(raised > 0, used, one.weights)
                damped = np.array([add_ridge(gram, r, spec.damping)[0] for gram, r in zip(grams, ridge, strict=True)])
                weights = backend.resolve(w, backend.asarray(damped, "float64"), weights != 0)
            found.append((weights, ridge, raised))
    return [one[0] for one in found], [one[1] for one in found], [one[2] for one in found]


def _with_one_factorisation(
    patterns: Sequence[Pattern], ridges: Sequence[Ridges]
) -> list[tuple[tuple[Pattern, ...], list[Ridges]]]:
    """Cut patterns, in their order, into runs that choose zeros by the same ridges, and re-solve all or none."""
    runs: list[tuple[tuple[Pattern, ...], list[Ridges]]] = []
    for pattern, one in zip(patterns, ridges, strict=True):
        if runs and _alike(runs[-1][1][-1], one):
            runs[-1] = (*runs[-1][0], pattern), [*runs[-1][1], one]
        else:
            runs.append(((pattern,), [one]))
    return runs


def _alike(one: Ridges, other: Ridges) -> bool:
    same = [np.array_equal(each.zeros, each.weights) for each in (one, other)]
    return same[0] == same[1] and np.array_equal(one.zeros, other.zeros)
