"""One pruned matrix, and what it is judged by."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wncore.normal import Float
from wncore.pruning.cells import Cells
from wncore.pruning.damping import Damped
from wncore.pruning.methods import PruneSpec


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
