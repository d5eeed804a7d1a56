"""What the saboteurs share."""

from wncore.reference import NumpyBackend


class Saboteur(NumpyBackend):
    """Right where a subclass does not say otherwise."""

    dtypes = ("float64", "float32")
