"""Which weights an answer pruned, and whether they were the cheapest."""

import numpy as np
from numpy.typing import NDArray

from wncore.normal import Float
from wncore.pruning.cells import select_span
from wncore.testing.contracts.pruning.pruned import Pruned
from wncore.tolerance import arithmetic, share


class Choice:
    """Reads the mask of an answer, and compares what it prunes in each cell with what costs least."""

    def __init__(self, case: Pruned, forced: NDArray[np.bool_]) -> None:
        self.case, self.forced = case, forced
        self.exact, self.used = True, 0.0

    def __call__(self, costs: Float, c: int) -> NDArray[np.bool_]:
        """Return what is kept of the cells number c, whose weights cost so much: (m, width) -> mask (m, width)."""
        case, span, counts = self.case, self.case.cells.span(c), self.case.cells.counts[:, c]
        zero, forced = case.got[:, span] == 0, self.forced[:, span]
        # A zero that need not be a pruned weight is taken for one if the count asks for it, the cheapest first.
        mask = select_span(np.where(forced, -1.0, np.where(zero, costs, np.inf)), counts)
        self.exact &= not (~mask & ~zero).any() and not (mask & forced).any()

        def total(values: Float) -> Float:
            return values.sum(axis=1) if len(counts) == len(values) else values.sum(keepdims=True)[0]

        least = np.sqrt(total(np.where(select_span(costs, counts), 0.0, costs)))
        paid = np.sqrt(total(np.where(mask, 0.0, costs)))
        scale = np.sqrt(total(case.reach**2)) if case.spec.method == "sparsegpt" else least
        replayed = case.spec.method == "sparsegpt" and case.spec.bits  # from what the answer stores
        spared = np.sqrt(total(case.carried**2)) if replayed else 0.0
        paid, dtype = np.maximum(paid, least), arithmetic(case.dtype)
        self.used = max(self.used, share(paid, least, dtype, len(case.h), scale, spared))
        return mask
