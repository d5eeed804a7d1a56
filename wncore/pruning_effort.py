"""The time that pruning takes beside a model's forward, foretold by trials on random numbers."""

from collections.abc import Callable, Sequence

import numpy as np

from wncore.backend import Backend
from wncore.effort import Step, measure
from wncore.pruning.methods import PruneSpec
from wncore.pruning.ridges import Ridges, prune_by

WIDEST = 512
"""Neurons and inputs of the matrix that is tried, at most."""


def pruning_effort(backend: Backend, shapes: Sequence[tuple[int, int]], spec: PruneSpec) -> Step:
    """Foretell how long it takes to prune matrices (m, d): the work of each grows with m d^2 + d^3."""
    m, d = (min(WIDEST, max(sizes)) for sizes in zip(*shapes, strict=True))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2 * d, d))
    gram, ridges = (x.T @ x)[None], [Ridges(np.array([0.2]), np.array([0.1]))] * len(spec.patterns)
    w = backend.asarray(rng.standard_normal((1, m, d)), "float32")

    def prepare(_: int) -> Callable[[], object]:
        return lambda: [backend.to_numpy(one) for one in prune_by(backend, w, gram, spec, ridges)[0]]

    work = float(sum(m * d**2 + d**3 for m, d in shapes))
    return Step("pruning", work, "m d^2 + d^3", (m * d**2 + d**3) * measure(prepare, 1))
