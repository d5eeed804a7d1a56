"""One pruned matrix, and what it is judged by."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wncore.normal import Float
from wncore.pruning.cells import Cells
from wncore.pruning.damping import Damped
from wncore.pruning.methods import PruneSpec
from wncore.tolerance import one_rounding


@dataclass(frozen=True, eq=False)
class Pruned:
    """An answer for one matrix, and what was asked for."""

    got: Float
    w: Float
    h: Float
    damped: Damped
    cells: Cells
    spec: PruneSpec
    dtype: str

    @cached_property
    def unit(self) -> Float:
        """Scale of the inputs: roots of the damped diagonal (d,)."""
        return np.sqrt(self.damped.h.diagonal())

    @cached_property
    def condition(self) -> float:
        """Condition of the damped matrix, with a diagonal of ones."""
        return float(np.linalg.cond(self.damped.h / np.outer(self.unit, self.unit)))

    @cached_property
    def reach(self) -> Float:
        """What the rounding of a row's scaled weights is relative to, where the condition matters (m, 1)."""
        return self.condition * np.linalg.norm(self.w * self.unit, axis=1, keepdims=True)

    @cached_property
    def carried(self) -> Float:
        """How far the rounding of a row's weights to half precision carries, where the condition matters (m, 1)."""
        stored = one_rounding(self.got, self.dtype) * self.unit
        return self.condition * np.linalg.norm(stored, axis=1, keepdims=True)
