"""Backends that are wrong in one way each, as one might be by mistake: the conformance suite must reject every one.

One backend, `right.RightInFloat32`, is right in plain float32 without any trick: the suite must let it pass. Those that
prune or solve wrongly do one of its `steps` otherwise.
"""

from saboteurs import (
    bounds,
    clusters,
    conversions,
    difficulty,
    distance,
    gram,
    histogram,
    pruned_weights,
    pruned_zeros,
    resolving,
    routing,
)
from saboteurs.base import Saboteur

ALL = Saboteur.__subclasses__()
MODULES = (bounds, clusters, difficulty, distance, gram, histogram, pruned_weights, pruned_zeros, resolving, routing)

__all__ = ["ALL", "MODULES", "conversions"]
