"""Wrong zeros: too many, too few, or others."""

from dataclasses import replace
from math import floor

import numpy as np

from saboteurs.base import Saboteur
from saboteurs.steps import Steps
from wncore.pruning.cells import Cells
from wncore.pruning.patterns import SemiStructured, Unstructured


def sizes(cells, m, d):
    """How many weights each cell has."""
    widths = np.diff([*range(0, d, cells.width), d])
    return widths[None] * (m // len(cells.counts)) + 0 * cells.counts


class OneMoreInEachCell(Steps, Saboteur):
    """Prunes up to sorted[int(s n)], and that one too, as the published code does."""

    def cells(self, spec, m, d):
        found = super().cells(spec, m, d)
        return [Cells(one.width, np.minimum(one.counts + 1, sizes(one, m, d))) for one in found]


class RoundedDownInEachCell(Steps, Saboteur):
    """Carries no remainder to the next cell."""

    def cells(self, spec, m, d):
        def down(pattern, one):
            if isinstance(pattern, SemiStructured) or len(pattern.shares) > 1:
                return one
            return Cells(one.width, np.floor(pattern.sparsity * sizes(one, m, d)).astype(int))

        return list(map(down, spec.patterns, super().cells(spec, m, d)))


class SharesInFloats(Steps, Saboteur):
    """0.29 * 200 is 57.999."""

    def cells(self, spec, m, d):
        def less(pattern, one):
            if one.counts.size > 1 or isinstance(pattern, SemiStructured) or len(pattern.shares) > 1:
                return one
            return Cells(one.width, np.array([[floor(pattern.sparsity * (m * d))]]))

        return list(map(less, spec.patterns, super().cells(spec, m, d)))


class NIsPruned(Steps, Saboteur):
    """N:M prunes N of M."""

    def cells(self, spec, m, d):
        def other(pattern, one):
            return Cells(one.width, sizes(one, m, d) - one.counts) if isinstance(pattern, SemiStructured) else one

        return list(map(other, spec.patterns, super().cells(spec, m, d)))


class NAndMSwapped(Steps, Saboteur):
    """M of N are kept: all of them."""

    def cells(self, spec, m, d):
        patterns = [Unstructured(0.0) if isinstance(one, SemiStructured) else one for one in spec.patterns]
        return super().cells(replace(spec, patterns=tuple(patterns)), m, d)


class RaggedTailDropped(Steps, Saboteur):
    """The last columns are no full group, and stay."""

    def cells(self, spec, m, d):
        found = super().cells(spec, m, d)
        for one in found:
            if d % one.width:
                one.counts[:, -1] = 0
        return found


class ThresholdOfTheRow(Steps, Saboteur):
    """Compares within rows where the layer, or a block of it, was asked for."""

    def cells(self, spec, m, d):
        return super().cells(replace(spec, group="row-block" if "block" in spec.compared else "row"), m, d)


class ByNeuronReversed(Steps, Saboteur):
    """The sparsity of the first neuron goes to the last."""

    def cells(self, spec, m, d):
        turned = [one if isinstance(one, SemiStructured) else Unstructured(one.shares[::-1]) for one in spec.patterns]
        return super().cells(replace(spec, patterns=tuple(turned)), m, d)


class PatternsReversed(Steps, Saboteur):
    """The last pattern comes first."""

    def cells(self, spec, m, d):
        return super().cells(spec, m, d)[::-1]


class TiesPrunedTogether(Steps, Saboteur):
    """All scores up to the threshold go, however many they are."""

    def choose(self, scores, counts):
        rows = scores if len(counts) == len(scores) else scores.reshape(1, -1)
        ends = np.hstack([np.full((len(rows), 1), -1), np.sort(rows, axis=1)])
        return (rows > np.take_along_axis(ends, counts[:, None], axis=1)).reshape(scores.shape)


class TiesToTheHighestIndex(Steps, Saboteur):
    """A sort that is not stable."""

    def choose(self, scores, counts):
        turned = counts[::-1] if len(counts) == len(scores) else counts
        return super().choose(scores[::-1, ::-1], turned)[::-1, ::-1]


class HighestScoresPruned(Steps, Saboteur):
    """Sorts the wrong way."""

    def choose(self, scores, counts):
        return super().choose(-scores, counts)


class ZerosNotCounted(Steps, Saboteur):
    """Weights that are zero already do not count as pruned."""

    def choose(self, scores, counts):
        mask = super().choose(np.where(scores == 0, np.inf, scores), counts)
        return mask & ((scores > 0) | ~mask)


class WandaWithoutTheRoot(Steps, Saboteur):
    """|w| H_jj."""

    def wanda(self, w, h):
        return np.abs(w) * h.diagonal()


class DeadInputsAreNotFirst(Steps, Saboteur):
    """Takes the 1 on their diagonal for their size."""

    def alive(self, h):
        return np.ones(len(h), bool)


class DeadInputsPrunedUnasked(Steps, Saboteur):
    """Zeroes them at the start, as the published code does."""

    def matrix(self, w, h, damped, cells, spec):
        return super().matrix(w * (h.diagonal() > 0), h, damped, cells, spec)


class ScoresByTheDiagonal(Steps, Saboteur):
    """w^2 H_jj in place of w^2 / U_jj^2."""

    def value(self, u, damped):
        return damped.diagonal()


class ScoresByTheWholeInverse(Steps, Saboteur):
    """w^2 / [H^-1]_jj, as if no column had been settled."""

    def value(self, u, damped):
        return 1 / (u**2).sum(axis=0)


class ScoresOfTheDenseWeights(Steps, Saboteur):
    """Selects a block by what its weights were before the blocks to its left were pruned."""

    def scored(self, weights, w):
        return w


class MaskDoesNotMove(Steps, Saboteur):
    """ADMM of no effect: two steps."""

    def iterations(self, spec):
        return 2


class InverseStays(Steps, Saboteur):
    """OBS that forgets to take pruned inputs out of the inverse."""

    def downdate(self, inverse, column, q):
        pass


class SmallestWeightFirst(Steps, Saboteur):
    """OBS by magnitude."""

    def cost(self, weights, diagonal):
        return weights**2
