"""Pruning by any method, as `wncore.pruning.methods`: one damping and one factorisation for all patterns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wncore.fast.pruning.alternating import admm
from wncore.fast.pruning.factor import damped_factor
from wncore.fast.pruning.greedy import obs
from wncore.fast.pruning.least_squares import resolve
from wncore.fast.pruning.selection import select
from wncore.fast.pruning.sweep import known_mask, sparsegpt
from wncore.fast.tiles import Each
from wncore.normal import Float
from wncore.pruning.cells import Cells
from wncore.pruning.damping import Damped, damp
from wncore.pruning.methods import PruneSpec
from wncore.pruning.scores import magnitude_score, wanda_score

Mask = NDArray[np.bool_]


def prune(w: NDArray, h: Float, spec: PruneSpec, each: Each) -> tuple[NDArray, Float, NDArray[np.int64]]:
    """Prune the matrices of k experts: (k, m, d), (k, d, d) -> (p, k, m, d) in the dtype of w, (k,), (k,)."""
    cells = spec.cells(*w.shape[1:])
    out = np.empty((len(cells), *w.shape), w.dtype)
    ridge, raised = np.empty(len(w)), np.empty(len(w), np.int64)
    for k, (weights, gram, wanted) in enumerate(zip(w, h, spec.ridges(len(w)), strict=True)):
        damped, r = _prepare(gram, wanted, spec, each)
        expert = _Expert(weights, gram, damped, r, spec, _arithmetic(w.dtype, spec), each)
        for p, (found, mask) in enumerate(expert.find(cells)):
            out[p, k] = expert.finish(found, mask)
        ridge[k], raised[k] = damped.ridge, damped.raised
    return out, ridge, raised


def _prepare(gram: Float, ridge: float, spec: PruneSpec, each: Each) -> tuple[Damped, Float]:
    """Damp a Gram matrix, and factorise it if there will be a sweep: (d, d) -> Damped, R (d, d) or (0, 0)."""
    if spec.method == "sparsegpt" or spec.bits:
        return damped_factor(gram, ridge, spec.damping, each)
    return damp(gram, ridge, spec.damping), np.empty((0, 0))


def _arithmetic(dtype: np.dtype, spec: PruneSpec) -> np.dtype:
    """Choose the dtype of large products: that of the weights, unless rounding could move one to the next level."""
    return np.dtype(np.float64) if spec.bits else dtype


@dataclass(frozen=True, eq=False)
class _Expert:
    """A matrix, and all that is known of it."""

    w: NDArray
    gram: Float
    damped: Damped
    r: Float
    spec: PruneSpec
    dtype: np.dtype
    """That of the large products."""
    each: Each

    def find(self, patterns: Sequence[Cells]) -> Iterator[tuple[NDArray, Mask]]:
        """Find weights and a mask for each pattern; weights that will be solved for may be the dense ones."""
        w, damped, spec, each = self.w, self.damped, self.spec, self.each
        if spec.method == "admm":
            yield from admm(w, damped, patterns, spec.iterations, self.dtype, each)
            return
        for cells in patterns:
            if spec.method == "obs":
                yield w, obs(w.astype(np.float64), damped, cells, each)
            elif spec.method == "sparsegpt" and not (spec.resolve and cells.width >= w.shape[1]):
                yield sparsegpt(w, self.r, damped.dead, cells, each, self.dtype, None, spec.bits, spec.bits_group)
            elif spec.method == "sparsegpt":
                yield w, known_mask(w, self.r, damped.dead, cells, each)
            else:
                scores = wanda_score(w, self.gram) if spec.method == "wanda" else magnitude_score(w)
                mask = select(scores, cells, each)
                yield np.where(mask, w, w.dtype.type(0)), mask

    def finish(self, found: NDArray, mask: Mask) -> NDArray:
        """Round the weights, or solve for them; a row that loses nothing stays what it was."""
        w, damped, spec, each = self.w, self.damped, self.spec, self.each
        if spec.bits and spec.method != "sparsegpt":
            known = Cells(w.shape[1], np.empty((1, 1), np.int64))
            return sparsegpt(w, self.r, damped.dead, known, each, self.dtype, mask, spec.bits, spec.bits_group)[0]
        if spec.resolved:
            found = resolve(w, damped.h, mask, each)
        return found if spec.bits else np.where(mask.all(axis=1, keepdims=True), w, found)
