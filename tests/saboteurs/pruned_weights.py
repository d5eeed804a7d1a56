"""Wrong weights for the right zeros, wrong ridges, and mixed up layers."""

from dataclasses import replace

import numpy as np

from saboteurs.base import Saboteur
from saboteurs.steps import Steps


class NoCompensation(Steps, Saboteur):
    """A sweep that spreads no error."""

    def error(self, old, new, kept):
        return 0 * old


class UpdatesEndWithTheCell(Steps, Saboteur):
    """The error is spread within a block, and not beyond it."""

    def end(self, j, cells):
        return (j // cells.width + 1) * cells.width


class NotResolved(Steps, Saboteur):
    """Returns what the method found."""

    def solve(self, w, h, mask):
        return np.where(mask, w, 0)


class ResolvedWithoutRidge(Steps, Saboteur):
    """Solves with the matrix that was given, where it is positive definite, and reports the ridge."""

    def matrix(self, w, h, damped, cells, spec):
        self._gram = h
        return super().matrix(w, h, damped, cells, spec)

    def solve(self, w, h, mask):
        near = 1e-6 * h + (1 - 1e-6) * self._gram
        return super().solve(w, near.astype(h.dtype), mask)


class RidgeNotApplied(Steps, Saboteur):
    """Reports a ridge that it adds only where nothing else will do."""

    def damped(self, h, ridge, spec):
        return super().damped(h, 0.0 if ridge in np.ravel(spec.ridge) else ridge, spec)


class RidgeNotReported(Steps, Saboteur):
    """Returns the ridge that was asked for, though it was raised."""

    def prune(self, w, h, spec):
        weights, ridge, raised = super().prune(w, h, spec)
        return weights, np.array(spec.ridges(len(ridge))), raised


class RaisesNotCounted(Steps, Saboteur):
    """Always 0."""

    def prune(self, w, h, spec):
        weights, ridge, raised = super().prune(w, h, spec)
        return weights, ridge, 0 * raised


class RidgeOfTheMean(Steps, Saboteur):
    """Takes the published damping whatever is asked."""

    def unit_ridge(self, diagonal, spec):
        return np.full_like(diagonal, diagonal.mean())


class RidgeOfEachInput(Steps, Saboteur):
    """Takes the damping of the unit diagonal whatever is asked."""

    def unit_ridge(self, diagonal, spec):
        return diagonal


class RidgeInNoUnit(Steps, Saboteur):
    """Adds the number itself to the diagonal."""

    def unit_ridge(self, diagonal, spec):
        return np.ones_like(diagonal)


class RidgeOfTheFirstExpert(Steps, Saboteur):
    """Damps all experts alike, by the first ridge."""

    def ridges(self, spec, k):
        return spec.ridges(k)[:1] * k


class LargestRidgeForAll(Steps, Saboteur):
    """Damps all experts alike, by the largest ridge, to be safe."""

    def ridges(self, spec, k):
        return (max(spec.ridges(k)),) * k


class RaisedTooFar(Steps, Saboteur):
    """Three rungs more than needed, in doubt."""

    def damp(self, h, asked, spec):
        damped, ridge, raised = super().damp(h, asked, spec)
        return (self.damped(h, 1e3 * ridge, spec), 1e3 * ridge, raised + 3) if raised else (damped, ridge, raised)


class GramsInFloat32(Steps, Saboteur):
    """Rounds the Gram matrices on the way, whatever the weights are."""

    def prune(self, w, h, spec):
        return super().prune(w, h.astype(np.float32), spec)


class MatrixOfTheFirstExpertForAll(Steps, Saboteur):
    """A factorisation that is not made anew."""

    def prune(self, w, h, spec):
        return super().prune(w, np.repeat(h[:1], len(h), axis=0), spec)


class ExpertsReversed(Steps, Saboteur):
    """The last expert comes first."""

    def prune(self, w, h, spec):
        weights, ridge, raised = super().prune(w, h, spec)
        return weights[:, ::-1], ridge, raised


class UntouchedRowsRounded(Steps, Saboteur):
    """Scales the weights and back, those of rows that lose nothing too."""

    def untouched(self, w, weights, mask):
        return np.where(mask.all(axis=1, keepdims=True), w / 3 * 3, weights)


class PrunesInPlace(Steps, Saboteur):
    """Saves a copy."""

    def prune(self, w, h, spec):
        answer = super().prune(w, h, spec)
        w[...] = answer[0][0]
        return answer


class WidensWeights(Steps, Saboteur):
    """Answers float32 with float64."""

    def prune(self, w, h, spec):
        weights, ridge, raised = super().prune(w, h, spec)
        return weights.astype(np.float64), ridge, raised


class RoundingNotSpread(Steps, Saboteur):
    """Rounds each weight to the nearest level, and makes up for pruned ones only."""

    def error(self, old, new, kept):
        return np.where(kept, 0, old - new)


class GridWithoutZero(Steps, Saboteur):
    """The levels start at the least weight."""

    def grid(self, w, bits):
        step, _ = super().grid(w, bits)
        return step, np.minimum(w.min(axis=1), 0)

    def quantise(self, w, step, low, bits):
        return np.round((w - low) / step) * step + low


class OneLevelTooMany(Steps, Saboteur):
    """Divides the range by 2^bits."""

    def grid(self, w, bits):
        step, zero = super().grid(w, bits)
        return step * (2**bits - 1) / 2**bits, zero


class GridOfTheRow(Steps, Saboteur):
    """Ignores that columns share a grid in groups."""

    def sweep(self, w, damped, alive, cells, spec, mask=None):
        return super().sweep(w, damped, alive, cells, replace(spec, bits_group=None), mask)


class GridOfTheDenseWeights(Steps, Saboteur):
    """Lays out the grids of all groups before the sweep."""

    def sweep(self, w, damped, alive, cells, spec, mask=None):
        width = spec.bits_group or w.shape[1]
        self._dense = [w[:, start : start + width] for start in range(0, w.shape[1], width)]
        return super().sweep(w, damped, alive, cells, spec, mask)

    def grid(self, w, bits):
        return super().grid(self._dense.pop(0), bits)
