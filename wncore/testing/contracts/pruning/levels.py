"""Weights that were rounded to a grid in a sweep."""

import numpy as np
from scipy.linalg import solve_triangular

from wncore.normal import Float
from wncore.pruning.quantisation import quantisation_grid
from wncore.pruning.sweep import inverse_factor
from wncore.testing.contracts.pruning.pruned import Pruned
from wncore.tolerance import arithmetic, budget, one_rounding, share


class Levels:
    """What a sweep must have seen, told from what it left.

    A sweep leaves W' = W - E U, with the error E of each column in units of U_jj, so E = (W - W') U^-1; the weights
    that it saw when it reached column j are W - E_:,<j U_<j,:. Whichever way rounding fell before, a kept weight must
    be the level of its grid that is next to what was seen.
    """

    def __init__(self, case: Pruned, bits: int) -> None:
        self.case, self.bits, self.u = case, bits, inverse_factor(case.damped.h)
        self.errors = solve_triangular(self.u, (case.w - case.got).T, trans=1).T
        self.used, self.forced = 0.0, np.zeros(case.w.shape, bool)
        width = case.spec.bits_group or len(case.h)
        for start in range(0, len(case.h), width):
            self._judge(slice(start, start + width))

    def before(self, column: int) -> Float:
        """Return the weights when the sweep reaches a column (m, d)."""
        return self.case.w - self.errors[:, :column] @ self.u[:column]

    def costs(self, column: int) -> Float:
        """Return SparseGPT's scores when the sweep reaches a column (m, d)."""
        return self.before(column) ** 2 * (~self.case.damped.dead / self.u.diagonal() ** 2)

    def _judge(self, group: slice) -> None:
        """Judge the columns that share a grid; note the zeros that are no levels, so must have been pruned."""
        case, d = self.case, len(self.case.h)
        got, stray, dtype = case.got[:, group], case.reach / case.unit[group], arithmetic(case.dtype)
        stored, carried = one_rounding(got, case.dtype), case.carried / case.unit[group]
        seen = self.before(group.start)[:, group]
        low, high = np.minimum(seen.min(axis=1), 0.0)[:, None], np.maximum(seen.max(axis=1), 0.0)[:, None]
        step = quantisation_grid(seen, self.bits)[0][:, None]
        # Zero's own level is the nearest to -low / step, and may fall either way: a weight beyond the last level is
        # within half a step of it, as any other.
        wanted = np.clip(got + self.errors[:, group] * self.u.diagonal()[group], low, high)
        beyond = np.maximum(np.abs(got - wanted) - step / 2, 0.0)
        moved = (stray, stored + carried) if group.start else (high - low, stored)
        on_grid = share(got, np.round(got / step) * step, dtype, d, *moved)
        nearest = share(np.where(got == 0, 0.0, beyond), np.zeros_like(got), dtype, d, stray, stored + carried)
        self.used = max(self.used, on_grid, nearest)
        self.forced[:, group] = (got == 0) & (beyond > budget(dtype, d, stray) + stored + carried)
