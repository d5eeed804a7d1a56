"""Tiles of rows: the unit of work of one thread, the same however many threads there are."""

from collections.abc import Callable, Iterable
from typing import Any

Each = Callable[[Callable[[Any], object], Iterable[Any]], object]
"""Does `work(item)` for every item, on all threads."""

ROWS = 128
"""Rows of a tile: enough that a matrix product of them is as fast as a larger one."""


def tiles(m: int, rows: int = ROWS) -> list[slice]:
    """Cut m rows into tiles.

    >>> tiles(200)
    [slice(0, 128, None), slice(128, 200, None)]
    """
    return [slice(first, min(m, first + rows)) for first in range(0, m, rows)]
