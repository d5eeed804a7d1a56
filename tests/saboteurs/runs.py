"""Wrong histograms of runs of tokens."""

from itertools import pairwise

import numpy as np

from saboteurs.base import Saboteur
from wncore.histograms import histogram_runs


class LastTokenOfARunDropped(Saboteur):
    """Takes the end of a run for one token beyond it."""

    def histogram_runs(self, y, edges, starts, factor):
        whole = histogram_runs(y, edges, starts, factor)[:3]
        parts = [self.histogram(y[a : max(a + 1, b - 1)], edges[:, ::factor]) for a, b in pairwise(starts)]
        return *whole, *(np.stack(part) for part in zip(*parts, strict=True))


class NotLifted(Saboteur):
    """Joins bins, and leaves heights above the edges that are gone."""

    def histogram_runs(self, y, edges, starts, factor):
        answers = histogram_runs(y, edges, starts, factor)
        for run, (a, b) in enumerate(pairwise(starts)):
            _, sums, _ = self.histogram(y[a:b], edges)
            answers[4][run, :, 1:-1] = sums[:, 1:-1].reshape(len(edges), -1, factor).sum(axis=2)
        return answers


class RunsInAnotherOrder(Saboteur):
    """The last comes first."""

    def histogram_runs(self, y, edges, starts, factor):
        answers = histogram_runs(y, edges, starts, factor)
        return *answers[:3], *(part[::-1].copy() for part in answers[3:])


class AllIsOfTheFirstRuns(Saboteur):
    """The last run is missing from the whole."""

    def histogram_runs(self, y, edges, starts, factor):
        answers = histogram_runs(y, edges, starts, factor)
        if len(starts) > 2:
            answers[0][:], answers[1][:], answers[2][:] = self.histogram(y[: starts[-2]], edges)
        return answers


class OnlyEvenTreesAreAdded(Saboteur):
    """The partner of the last of an odd number of runs is taken for zero, and so is that run."""

    def histogram_runs(self, y, edges, starts, factor):
        answers = histogram_runs(y, edges, starts, factor)
        if (len(starts) - 1) % 2:
            for whole, part in zip(answers[:3], self.histogram(y[starts[-2] :], edges), strict=True):
                whole -= part
        return answers


class HeightsInFloat32(Saboteur):
    """Joins bins in float32."""

    def histogram_runs(self, y, edges, starts, factor):
        answers = histogram_runs(y, edges, starts, factor)
        return *answers[:4], answers[4].astype(np.float32).astype(np.float64), answers[5]


class TailsAreJoined(Saboteur):
    """The lower tail goes into the first of the coarser bins."""

    def histogram_runs(self, y, edges, starts, factor):
        answers = histogram_runs(y, edges, starts, factor)
        answers[3][..., 1] += answers[3][..., 0]
        answers[3][..., 0] = 0
        return answers
