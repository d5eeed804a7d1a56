"""Fitting a router: principal components of a layer's inputs, k-means among them, small clusters merged."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.clustering import kmeans
from wncore.components import principal_components
from wncore.errors import InputError
from wncore.experts.balance import balance
from wncore.experts.router import Labels, Router
from wncore.experts.starvation import starved
from wncore.experts.tokens import project_tokens
from wncore.layers.activations import Activations
from wncore.sums import ClusterSums
from wncore.tick import Tick, idle

INPUTS_PER_COMPONENT = 32
"""As in the authors' program."""


@dataclass(frozen=True)
class ClusterSpec:
    """How tokens are clustered: everything but the inputs and the number of clusters."""

    components: int | None = None
    """Principal components; None: one for 32 inputs."""
    restarts: int = 10
    seed: int = 0
    balanced: bool = False
    """Clusters of about equal size, by a price on each centroid."""
    least_tokens: int = 16
    """Calibration tokens below which a cluster is merged into its neighbours."""

    def __post_init__(self) -> None:
        for name, least in (("components", 1), ("restarts", 1), ("seed", 0), ("least_tokens", 1)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise InputError(f"{name} must be at least {least}; got {given}")


@dataclass(frozen=True, eq=False)
class Projection:
    """All tokens of an input that count, in the space of its principal components."""

    points: NDArray
    """(n, r)"""
    calibration: int
    """How many of them, the first ones, routers are fitted to."""
    base: Router
    """With one centroid, in the middle."""
    explained: float
    """Share of the inputs' variance that the components explain."""


@dataclass(frozen=True, eq=False)
class Routing:
    """A router, and where it sends the tokens that it was fitted to and those held out."""

    router: Router | None
    """None for random clusters"""
    labels: Labels
    """(n,)"""
    experts: int
    merged: int
    """Clusters that were asked for, and merged away."""
    inertia: float | None
    """Share of the calibration tokens' variance, as projected, that is left within clusters; None for random ones."""


def project_inputs(activations: Activations, sums: ClusterSums, spec: ClusterSpec) -> Projection:
    """Find the principal components of a layer's inputs from their sums, of one cluster, and project every token.

    Raises
    ------
    InputError
        If more components are asked for than there are inputs.
    WncoreError
        As `project_tokens`.
    """
    d = activations.input.columns
    rank = spec.components or max(1, d // INPUTS_PER_COMPONENT)
    count = int(sums.tokens[0])
    mean, components, variance = principal_components(sums.grams[0], sums.totals[0], count, rank)
    whole = float(np.trace(sums.grams[0]) / count - np.square(mean).sum())
    unit = np.frexp(np.sqrt(variance[0]))[1]
    if abs(unit) > 30:  # squares of the projections must stay in the range of float32
        components = np.ldexp(components, -unit)
    if spec.balanced:  # nothing lies along the last component but the prices of the centroids
        components = np.pad(components, [(0, 1), (0, 0)])
    dtype = np.dtype(activations.dtype)
    base = Router(mean.astype(dtype), components.astype(dtype), np.zeros((1, len(components)), dtype))
    points = project_tokens(activations, base)
    explained = float(variance.sum()) / whole if whole > 0 else 1.0
    return Projection(points, activations.calibration, base, min(1.0, explained))


def fit_routing(projection: Projection, k: int, spec: ClusterSpec, backend: Backend, tick: Tick = idle) -> Routing:
    """Cluster the calibration tokens, merge clusters that are too small, and label all tokens.

    Raises
    ------
    InputError
        If there are fewer calibration tokens than clusters.
    """
    seen = projection.points[: projection.calibration]
    found = kmeans(seen, k, backend, seed=spec.seed, restarts=spec.restarts, tick=tick)
    centroids, dtype = found.centroids, str(seen.dtype)
    if spec.balanced:
        centres, prices = balance(seen[:, :-1], centroids[:, :-1])
        centroids = np.column_stack([centres, np.sqrt(prices)]).astype(dtype)
    native = backend.asarray(projection.points, dtype)

    def label(kept: NDArray) -> Labels:
        return backend.to_numpy(backend.lloyd(native, backend.asarray(kept[None], dtype))[0])[0]

    kept, labels = _merge(centroids, label, len(seen), spec.least_tokens)
    router = Router(projection.base.mean, projection.base.components, kept)
    return Routing(router, labels, len(kept), k - len(kept), _within(seen, labels[: len(seen)], len(kept)))


def _merge(
    centroids: NDArray, label: Callable[[NDArray], Labels], calibration: int, least: int
) -> tuple[NDArray, Labels]:
    """Take away the smallest centroid, and let others have its tokens, until none has fewer than `least`."""
    kept, labels = centroids, label(centroids)
    while (smallest := starved(np.bincount(labels[:calibration], minlength=len(kept)), least)) is not None:
        kept = np.delete(kept, smallest, axis=0)
        labels = label(kept)
    return kept, labels


def _within(points: NDArray, labels: Labels, k: int) -> float:
    """Return the share of the points' variance that is left within clusters: (n, r), (n,)."""
    around = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    whole = float(np.square(around).sum())
    for c in range(k):
        mine = labels == c
        around[mine] -= around[mine].mean(axis=0)
    return float(np.square(around).sum()) / whole if whole > 0 else 0.0


def random_routing(projection: Projection, k: int, seed: int) -> Routing:
    """Deal tokens out at random, as many to each of k clusters: the control. No router finds such clusters again."""
    rng, seen = np.random.default_rng([seed, 2]), projection.calibration
    parts = [rng.permutation(count) % k for count in (seen, len(projection.points) - seen)]
    return Routing(None, np.concatenate(parts), k, 0, None)
