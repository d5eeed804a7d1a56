"""One more that is wrong, for tests of what is written down: it declares unsupported what takes long to try."""

from saboteurs.conversions import RefusesEverything
from saboteurs.difficulty import ZeroMedianIsNaN
from wncore.reference import NumpyBackend


class Brief(RefusesEverything):
    """Has a histogram, which is right, and a mapping difficulty, which is wrong."""

    histogram = NumpyBackend.histogram
    mapping_difficulty = ZeroMedianIsNaN.mapping_difficulty
