"""Backends that are wrong in one way each, as one might be by mistake: the conformance suite must reject every one.

Two backends, `right.RightInFloat32` and `right.RightInHalf`, are right in plain float32 without any trick, the second
on inputs of half precision: the suite must let them pass. Those that prune or solve wrongly do one of their `steps`
otherwise.
"""

from saboteurs import (
    bounds,
    clusters,
    conversions,
    difficulty,
    distance,
    edges,
    gram,
    half,
    histogram,
    linear_histogram,
    losses,
    pruned_weights,
    pruned_zeros,
    resolving,
    routing,
    runs,
)
from saboteurs.base import Saboteur

ALL = Saboteur.__subclasses__()
MODULES = (
    bounds,
    clusters,
    difficulty,
    distance,
    edges,
    gram,
    half,
    histogram,
    linear_histogram,
    losses,
    pruned_weights,
    pruned_zeros,
    resolving,
    routing,
    runs,
)

__all__ = ["ALL", "MODULES", "conversions"]
