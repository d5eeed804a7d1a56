"""The steps of pruning that a kernel may take."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from wncore_torch.pruning.cells import TorchCells, select
from wncore_torch.pruning.panels import Choice, Grid, sweep_panel


@dataclass(frozen=True)
class Steps:
    """What runs the steps; each function has the arguments of its namesake in plain torch."""

    select: Callable[[Tensor, TorchCells], Tensor]
    sweep_panel: Callable[[Tensor, Tensor, Tensor, Choice | None, Grid | None], None]


PLAIN = Steps(select, sweep_panel)
