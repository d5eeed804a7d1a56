"""Small tensors, and short questions, that the tests of dumps share."""

from pathlib import Path

import numpy as np
import pytest

from wncore.dumps import Dump, Layer, open_dump
from wncore.errors import DumpError

_RNG = np.random.default_rng(0)
X = _RNG.standard_normal((6, 3))
Y = _RNG.standard_normal((6, 2))
W = _RNG.standard_normal((2, 3))
B = _RNG.standard_normal(2)


def only(dump: Dump) -> Layer:
    """Return the one layer of a dump."""
    (layer,) = dump.layers.values()
    return layer


def refused(*sources: Path, says: str, **options: int) -> None:
    """Demand that these sources are refused with such a message."""
    with pytest.raises(DumpError, match=says):
        open_dump(*sources, **options)


def names_in(folder: Path) -> list[str]:
    """List a folder."""
    return sorted(path.name for path in folder.iterdir())
