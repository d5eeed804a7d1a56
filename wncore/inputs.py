"""Reading a layer's inputs: as floats, without padding, checked finite, in bounded memory."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wncore.dumps.layer import Tokens
from wncore.dumps.tensor import Tensor, as_floats

Tick = Callable[[int], object]
"""Is told how much was done since it was last called, or 0 as a sign of life."""
CHUNK = 2**25
"""Bytes read at a time."""


def read_input(
    source: Tensor, tokens: Tokens, rows: slice, dtype: str, tick: Tick = lambda count: None
) -> NDArray[np.floating]:
    """Read those of the given rows of the file that count: (kept, d).

    Raises
    ------
    NonFiniteError
        If one of them holds NaN or infinity.
    """
    out = np.empty((int(tokens.keep[rows].sum()), source.columns), dtype)
    done = 0
    for part in source.chunks(source.columns * (source.itemsize + out.itemsize), CHUNK):
        low, high = max(part.start, rows.start), min(part.stop, rows.stop)
        if low < high:
            raw = source.read(slice(low, high))
            raw = raw if tokens.all_kept else raw[tokens.keep[low:high]]
            source.check_finite(raw, tokens.keep)
            out[done : done + len(raw)] = as_floats(raw)
            done += len(raw)
            tick(0)
    return out
