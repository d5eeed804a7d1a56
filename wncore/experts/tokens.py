"""Routing all tokens of a layer."""

import numpy as np
from numpy.typing import NDArray

from wncore.errors import MemoryBudgetError
from wncore.experts.router import Labels, Router
from wncore.layers.activations import Activations

ROWS = 4096
"""Tokens that are projected at a time: always as many, so that the same token gets the same bits."""


def project_tokens(activations: Activations, router: Router) -> NDArray:
    """Return the projections of all tokens that count: (n, r).

    Raises
    ------
    MemoryBudgetError
        If they do not fit into half of the memory that is allowed.
    NonFiniteError
        If an input holds NaN or infinity.
    """
    backend, memory, count = activations.backend, activations.memory, activations.tokens.count
    dtype, rows = router.components.dtype, activations.input.rows
    need = count * len(router.components) * dtype.itemsize
    if need > memory // 2:
        raise MemoryBudgetError(
            f"{activations.name}: the projections of {count} tokens take {need / 2**20:.0f} MiB of the "
            f"{memory / 2**20:.0f} allowed; give --memory {4 * need // 2**20 + 1}MiB, or fewer --components"
        )
    points, done = np.empty((count, len(router.components)), dtype), 0
    for first in range(0, rows, ROWS):
        x = activations.read_input(slice(first, min(rows, first + ROWS)), str(dtype))
        points[done : done + len(x)] = backend.to_numpy(router.project(x, backend))
        done += len(x)
        activations.tick(0)
    return points


def label_tokens(activations: Activations, router: Router) -> Labels:
    """Say which expert each token that counts goes to: (n,); raises as `project_tokens`."""
    points, backend = project_tokens(activations, router), activations.backend
    dtype = str(points.dtype)
    found = backend.lloyd(backend.asarray(points, dtype), backend.asarray(router.centroids[None], dtype))
    return backend.to_numpy(found[0])[0]
