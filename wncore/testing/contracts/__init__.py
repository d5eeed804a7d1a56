"""One contract an operation: how arguments are drawn, what the truth is, how an answer is judged."""

from wncore.testing.contracts.bounds import CONTRACT as BOUNDS
from wncore.testing.contracts.clustering import CONTRACT as CLUSTERING
from wncore.testing.contracts.contract import Contract
from wncore.testing.contracts.difficulty import CONTRACT as DIFFICULTY
from wncore.testing.contracts.distance import CONTRACT as DISTANCE
from wncore.testing.contracts.edges import CONTRACT as EDGES
from wncore.testing.contracts.gram import CONTRACT as GRAM
from wncore.testing.contracts.histogram import CONTRACT as HISTOGRAM
from wncore.testing.contracts.linear_histogram import CONTRACT as LINEAR_HISTOGRAM
from wncore.testing.contracts.losses import CONTRACT as LOSSES
from wncore.testing.contracts.pruning.contract import CONTRACT as PRUNING
from wncore.testing.contracts.resolving import CONTRACT as RESOLVING
from wncore.testing.contracts.routing import CONTRACT as ROUTING
from wncore.testing.contracts.runs import CONTRACT as RUNS

CONTRACTS = (
    DISTANCE,
    EDGES,
    HISTOGRAM,
    RUNS,
    BOUNDS,
    DIFFICULTY,
    ROUTING,
    LINEAR_HISTOGRAM,
    GRAM,
    CLUSTERING,
    PRUNING,
    RESOLVING,
    LOSSES,
)

__all__ = ["BOUNDS", "CONTRACTS", "DIFFICULTY", "DISTANCE", "HISTOGRAM", "Contract"]
