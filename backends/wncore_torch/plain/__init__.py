"""Every operation in plain torch, for any device that torch has; each follows the definition of its name in the core.

Only operations that give the same answer twice on every device are used: sums over sorted runs where one would scatter.
Sorting and products stay in the input's dtype (half precision is added up in float32), all else is float64.
"""

from collections.abc import Callable
from typing import Any

from wncore_torch.plain.bounds import distance_bounds
from wncore_torch.plain.clusters import lloyd
from wncore_torch.plain.difficulty import mapping_difficulty
from wncore_torch.plain.distance import gaussian_distance
from wncore_torch.plain.edges import choose_edges
from wncore_torch.plain.fused import linear_histogram
from wncore_torch.plain.grams import gram
from wncore_torch.plain.histograms import histogram, histogram_runs
from wncore_torch.plain.routing import routed_linear
from wncore_torch.pruning import neuron_losses, prune, resolve

OPERATIONS: dict[str, Callable[..., Any]] = {
    "gaussian_distance": gaussian_distance,
    "choose_edges": choose_edges,
    "histogram": histogram,
    "histogram_runs": histogram_runs,
    "distance_bounds": distance_bounds,
    "mapping_difficulty": mapping_difficulty,
    "routed_linear": routed_linear,
    "linear_histogram": linear_histogram,
    "gram": gram,
    "lloyd": lloyd,
    "prune": prune,
    "resolve": resolve,
    "neuron_losses": neuron_losses,
}
