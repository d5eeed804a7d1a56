"""Attention heads in a dump: the same numbers with four axes, and flat; and questions about their sequences."""

import numpy as np
from rawfile import write

from wncore.dumps import open_dump

_RNG = np.random.default_rng(0)
B, P, H, C = 4, 6, 3, 5
"""Sequences, positions, heads, channels of a head."""
Q = _RNG.standard_normal((B, P, H, C)).astype(np.float32)
FLAT = Q.reshape(B * P, H * C)
W = _RNG.standard_normal((7, H * C)).astype(np.float32)
MASK = _RNG.random((B, P)) < 0.7


def opened(tmp_path, tensors, length=None, **metadata):
    return open_dump(write(tmp_path / "a.safetensors", tensors, **metadata), length=length)


def positions(tokens):
    """The rows that are the first of their sequence."""
    return np.flatnonzero(tokens.keep)[tokens.first].tolist()
