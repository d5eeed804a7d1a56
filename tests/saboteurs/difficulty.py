"""Wrong mapping difficulties."""

import numpy as np

from saboteurs.base import Saboteur
from wncore.difficulty import mapping_difficulty


class LowerMedian(Saboteur):
    """The lower of two middles, torch.median's habit."""

    def mapping_difficulty(self, x, y, left, right):
        out = mapping_difficulty(x, y, left, right)
        if len(left) > 1:
            dy = np.sort(np.abs(y[left].astype(np.float64) - y[right]), axis=0)
            lower = dy[(len(dy) - 1) // 2]
            out = np.where(lower > 0, out * np.median(dy, axis=0) / np.where(lower > 0, lower, 1), 0)
        return out


class MedianOfTheLayer(Saboteur):
    """One median for all neurons."""

    def mapping_difficulty(self, x, y, left, right):
        out = mapping_difficulty(x, y, left, right)
        if len(left) < 2:
            return out
        dy = np.abs(y[left].astype(np.float64) - y[right])
        whole = np.median(dy)
        return out * np.median(dy, axis=0) / whole if whole > 0 else out


class ZeroMedianIsNaN(Saboteur):
    """Divides by a median of 0."""

    def mapping_difficulty(self, x, y, left, right):
        out = mapping_difficulty(x, y, left, right)
        return np.where(out == 0, np.nan, out)


class ExpandedSquares(Saboteur):
    """|a|^2 - 2 ab + |b|^2, the GPU's shortcut, which cancels where inputs are close."""

    def mapping_difficulty(self, x, y, left, right):
        if len(left) < 2:
            return np.zeros(y.shape[1])
        a, b = x[left], x[right]
        dx = np.sqrt(np.maximum((a * a).sum(1) - 2 * (a * b).sum(1) + (b * b).sum(1), np.finfo(x.dtype).tiny))
        line = np.concatenate([0 * dx, dx])[:, None]
        pairs = np.arange(len(left))
        return mapping_difficulty(line, y[np.concatenate([left, right])], pairs, pairs + len(left))


class SilentForFewPairs(Saboteur):
    """Answers 0 where its kernel needs more pairs, instead of NotImplementedError."""

    def mapping_difficulty(self, x, y, left, right):
        out = mapping_difficulty(x, y, left, right)
        return out if len(left) >= 4 else 0 * out
