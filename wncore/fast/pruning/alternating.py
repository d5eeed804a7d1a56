"""ADMM with one matrix product an iteration, for all patterns together.

From iteration to iteration, `wncore.pruning.alternating.admm` need only keep T = W' + V / r: its largest entries are
Z, and r times the others V. And since W H = W (H + r) - r W, with inputs scaled as there,

    W' = W + (r (Z - W) - V) (H + r)^-1,

where the inverse, formed from one eigenproblem, serves all patterns and all rows.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wncore.fast.compiled import compiled
from wncore.fast.pruning.selection import select
from wncore.fast.tiles import Each, tiles
from wncore.normal import Float
from wncore.pruning.alternating import PENALTIES
from wncore.pruning.cells import Cells
from wncore.pruning.damping import Damped


@compiled
def _prepare(wanted, kept, dense, old, new, pull):
    """Write r (Z - W) - V for the new penalty r into pull, and V / r over T: all (m, d)."""
    for i in range(len(wanted)):
        for j in range(wanted.shape[1]):
            if kept[i, j]:
                pull[i, j] = new * (wanted[i, j] - dense[i, j])
                wanted[i, j] = 0
            else:
                pull[i, j] = -new * dense[i, j] - old * wanted[i, j]
                wanted[i, j] *= old / new


@compiled
def _finish(wanted, dense, change, alive):
    """Add W' to V / r, and write the scores of the sum over the change of W."""
    for i in range(len(wanted)):
        for j in range(wanted.shape[1]):
            wanted[i, j] += dense[i, j] + change[i, j]
            change[i, j] = abs(wanted[i, j]) * alive[j]


def admm(
    w: Float, damped: Damped, patterns: Sequence[Cells], iterations: int, dtype: DTypeLike, each: Each
) -> list[tuple[Float, NDArray[np.bool_]]]:
    """Find a sparse layer for each pattern: (m, d) -> (m, d), mask; the iterations are in `dtype`."""
    unit, alive = np.sqrt(damped.h.diagonal()), ~damped.dead
    eigenvalues, basis = np.linalg.eigh(damped.h / np.outer(unit, unit))
    dense = w * unit * alive
    largest = np.max(np.abs(dense), initial=0.0) or 1.0  # whatever the units, float32 holds the rest
    dense, basis = (dense / largest).astype(dtype), basis.astype(dtype)
    masks = [select(np.abs(dense), cells, each) for cells in patterns]
    states = [np.where(mask, dense, 0) for mask in masks]
    penalties = np.geomspace(*PENALTIES, iterations)
    for old, new in pairwise([1.0, *penalties]):  # the first dual is zero, whatever its unit
        inverse = _shifted_inverse(eigenvalues, basis, new, each)
        for cells, wanted, mask in zip(patterns, states, masks, strict=True):
            scores = _step(wanted, mask, dense, inverse, alive, dense.dtype.type(old), dense.dtype.type(new), each)
            mask[:] = select(scores, cells, each)
    found = [np.where(alive, wanted * (largest / unit), w) for wanted in states]
    return [(np.where(mask, weights, 0.0), mask) for weights, mask in zip(found, masks, strict=True)]


def _step(
    wanted: NDArray,
    mask: NDArray[np.bool_],
    dense: NDArray,
    inverse: NDArray,
    alive: NDArray,
    old: float,
    new: float,
    each: Each,
) -> NDArray:
    """Go from T of the old penalty to that of the new one, and score it: (m, d) -> (m, d)."""
    scores = np.empty_like(wanted)

    def work(rows: slice) -> None:
        pull = np.empty_like(wanted[rows])
        _prepare(wanted[rows], mask[rows], dense[rows], old, new, pull)
        np.matmul(pull, inverse, out=scores[rows])
        _finish(wanted[rows], dense[rows], scores[rows], alive)

    each(work, tiles(len(wanted)))
    return scores


def _shifted_inverse(eigenvalues: Float, basis: NDArray, penalty: float, each: Each) -> NDArray:
    """Return (H + r)^-1 in the dtype of the basis: (d,), (d, d) -> (d, d)."""
    root = basis * (1 / np.sqrt(eigenvalues + penalty)).astype(basis.dtype)
    out = np.empty_like(basis)

    def multiply(rows: slice) -> None:
        out[rows, : rows.stop] = root[rows] @ root[: rows.stop].T
        out[: rows.start, rows] = out[rows, : rows.start].T

    each(multiply, tiles(len(out)))
    return out
