"""Wrong solutions for a given mask."""

import numpy as np

from saboteurs.base import Saboteur
from saboteurs.steps import Solver


class MaskInverted(Solver, Saboteur):
    """Takes 1 for a pruned weight."""

    def solve(self, w, h, mask):
        return super().solve(w, h, ~mask)


class PrunedWeightsForgotten(Solver, Saboteur):
    """Solves for the outputs of the kept weights alone."""

    def solve(self, w, h, mask):
        return super().solve(np.where(mask, w, 0), h, mask)


class FewSteps(Solver, Saboteur):
    """Five steps of conjugate gradients."""

    def system(self, h, right):
        x, residual = np.zeros_like(right), right.copy()
        direction = residual.copy()
        for _ in range(5):
            if not residual.any():
                break
            moved, before = h @ direction, residual @ residual
            length = before / (direction @ moved)
            x, residual = x + length * direction, residual - length * moved
            direction = residual + residual @ residual / before * direction
        return x


class SystemInHalfPrecision(Solver, Saboteur):
    """Rounds the matrix, scaled, to float16."""

    def system(self, h, right):
        unit = np.sqrt(h.diagonal())
        rounded = (h / np.outer(unit, unit)).astype(np.float16).astype(h.dtype) + 1e-3 * np.eye(len(h), dtype=h.dtype)
        return super().system(rounded, right / unit) / unit


class SolvesInFloat32(Solver, Saboteur):
    """Float64, too."""

    def system(self, h, right):
        return super().system(h.astype(np.float32), right.astype(np.float32)).astype(h.dtype)


class FactorOfTheFirstRow(Solver, Saboteur):
    """Takes all rows to keep what the first row that loses any keeps."""

    def solve(self, w, h, mask):
        rows = [mask[mask.sum(axis=1) == kept.sum()][0] for kept in mask]
        return np.where(mask, super().solve(w, h, np.array(rows)), 0)


class NearlyZero(Solver, Saboteur):
    """Projects with the inverse, which leaves rounding where zeros should be."""

    def solve(self, w, h, mask):
        out, inverse = w.copy(), np.linalg.inv(h)
        for row, keep in zip(out, mask, strict=True):
            if not keep.all():
                row -= inverse[:, ~keep] @ np.linalg.solve(inverse[np.ix_(~keep, ~keep)], row[~keep])
        return out


class WholeRowsRecomputed(Solver, Saboteur):
    """Solves for a row that keeps all, too: right, but not to the bit."""

    def solve(self, w, h, mask):
        out = np.zeros_like(w)
        for row, dense, keep in zip(out, w, mask, strict=True):
            row[keep] = self.system(h[np.ix_(keep, keep)], (h @ dense)[keep])
        return out


class MatrixOfTheFirstExpert(Solver, Saboteur):
    """One factorisation for all experts."""

    def resolve(self, w, h, mask):
        return super().resolve(w, np.repeat(h[:1], len(h), axis=0), mask)
