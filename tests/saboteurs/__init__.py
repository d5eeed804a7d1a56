"""Backends that are wrong in one way each, as one might be by mistake: the conformance suite must reject every one.

One backend, `right.RightInFloat32`, is right in plain float32 without any trick: the suite must let it pass.
"""

from saboteurs import bounds, conversions, difficulty, distance, histogram, routing
from saboteurs.base import Saboteur

ALL = Saboteur.__subclasses__()

__all__ = ["ALL", "bounds", "conversions", "difficulty", "distance", "histogram", "routing"]
