"""Routing all tokens of a layer of a dump."""

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.dumps.layer import Layer
from wncore.errors import MemoryBudgetError
from wncore.experts.router import Labels, Router
from wncore.inputs import Tick, read_input

ROWS = 4096
"""Tokens that are projected at a time: always as many, so that the same token gets the same bits."""


def project_tokens(
    layer: Layer,
    backend: Backend,
    router: Router,
    *,
    skip_tokens: int = 0,
    memory: int = 2**30,
    tick: Tick = lambda count: None,
) -> NDArray:
    """Return the projections of all tokens that count: (n, r).

    Raises
    ------
    MemoryBudgetError
        If they do not fit into half of `memory`.
    NonFiniteError
        If an input holds NaN or infinity.
    """
    tokens, source = layer.tokens(skip_tokens), layer.input
    assert source is not None
    dtype = router.components.dtype
    need = tokens.count * len(router.components) * dtype.itemsize
    if need > memory // 2:
        raise MemoryBudgetError(
            f"{layer.name}: the projections of {tokens.count} tokens take {need / 2**20:.0f} MiB of the "
            f"{memory / 2**20:.0f} allowed; give --memory {4 * need // 2**20 + 1}MiB, or fewer --components"
        )
    points, done = np.empty((tokens.count, len(router.components)), dtype), 0
    for first in range(0, source.rows, ROWS):
        x = read_input(source, tokens, slice(first, min(source.rows, first + ROWS)), str(dtype))
        points[done : done + len(x)] = backend.to_numpy(router.project(x, backend))
        done += len(x)
        tick(0)
    return points


def label_tokens(
    layer: Layer,
    backend: Backend,
    router: Router,
    *,
    skip_tokens: int = 0,
    memory: int = 2**30,
    tick: Tick = lambda count: None,
) -> Labels:
    """Say which expert each token that counts goes to: (n,); raises as `project_tokens`."""
    points = project_tokens(layer, backend, router, skip_tokens=skip_tokens, memory=memory, tick=tick)
    dtype = str(points.dtype)
    found = backend.lloyd(backend.asarray(points, dtype), backend.asarray(router.centroids[None], dtype))
    return backend.to_numpy(found[0])[0]
