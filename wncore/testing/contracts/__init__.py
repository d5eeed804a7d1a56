"""One contract an operation: how arguments are drawn, what the truth is, how an answer is judged."""

from wncore.testing.contracts.bounds import CONTRACT as BOUNDS
from wncore.testing.contracts.contract import Contract
from wncore.testing.contracts.difficulty import CONTRACT as DIFFICULTY
from wncore.testing.contracts.distance import CONTRACT as DISTANCE
from wncore.testing.contracts.histogram import CONTRACT as HISTOGRAM
from wncore.testing.contracts.routing import CONTRACT as ROUTED_LINEAR

CONTRACTS = (DISTANCE, HISTOGRAM, BOUNDS, DIFFICULTY, ROUTED_LINEAR)

__all__ = ["BOUNDS", "CONTRACTS", "HISTOGRAM", "ROUTED_LINEAR", "Contract"]
