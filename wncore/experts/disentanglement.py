"""Was a neuron disentangled? Its distance to a Gaussian and its mapping difficulty within each cluster of its inputs.

Source: Sawmya, Kong, Markov, Alistarh, Shavit, "Wasserstein Distances, Neuronal Entanglement, and Sparsity", ICLR 2025,
arXiv:2405.15756, section 5 and figure 5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wncore.difficulty import Indices
from wncore.dumps.layer import Tokens
from wncore.errors import InputError, ShapeError
from wncore.experts.router import Labels
from wncore.layers.activations import Activations
from wncore.mapping import MeasuredPairs, draw_within
from wncore.normal import Float
from wncore.outputs import Outputs
from wncore.rounding import rounding_deviation
from wncore.scoring import LayerScore
from wncore.wasserstein import two_sample_distance

MEAN_NOISE = 0.83
"""sqrt(n) times the mean distance of n standardised independent Gaussian tokens; 0.76 at n = 2, 0.82 at 64. Simulated
by benchmarks/noise_floor.py."""
TOP = 0.03
"""Share of a layer's neurons that count as its Wasserstein neurons, the most entangled."""
SCRATCH = 64
"""Bytes a token and neuron while a block of them is scored: a copy, and room for the backend to sort and pair it."""


@dataclass(frozen=True, eq=False)
class Disentanglement:
    """How entangled the m neurons of an expanded layer are; a column (m,) has NaN where it is undefined.

    A weighted number is sum_c n_c/n * (the number on cluster c); clusters on which it is undefined are left out of the
    sum and of n: those of fewer than two tokens, or on which the neuron is constant. NaN: undefined on all.
    """

    wasserstein_weighted: Float
    """Distance to a Gaussian of the neuron's outputs through its experts, standardised within each cluster."""
    wasserstein_weighted_dense: Float
    """The same with the dense weights on the same clusters: what clustering alone does, before any pruning."""
    difficulty_weighted: Float | None
    """Mapping difficulty through the experts, of pairs within clusters; None if no pairs were asked for. It falls a
    little for random clusters, too: the largest distance of inputs, which it is relative to, is one of fewer pairs."""
    two_sample: Float
    """W1 of dense and expanded outputs over all tokens, in deviations of the dense; NaN for a constant neuron."""
    noise: float
    """What `wasserstein_weighted` is on average for neurons that are Gaussian on every cluster: 0.83 sum_c n_c/n /
    sqrt(n_c). Small clusters look entangled by noise alone."""


@dataclass(frozen=True)
class Change:
    """How a number of some neurons changed; neurons for which it is undefined are left out."""

    neurons: int
    share_fallen: float
    median_change: float
    """Of after / before - 1."""


def change(before: Float, after: Float) -> Change:
    """Sum up how a number of some neurons changed: (q,), (q,), NaN where undefined.

    >>> change(np.array([1.0, 1.0, 2.0, np.nan]), np.array([0.5, 0.7, 3.0, 1.0]))
    Change(neurons=3, share_fallen=0.6666666666666666, median_change=-0.30000000000000004)
    """
    known = np.isfinite(before) & np.isfinite(after) & (before > 0)
    if not known.any():
        return Change(0, float("nan"), float("nan"))
    ratio = after[known] / before[known]
    return Change(len(ratio), float(np.mean(ratio < 1)), float(np.median(ratio) - 1))


def wasserstein_neurons(dense: LayerScore) -> NDArray[np.int64]:
    """Return the indices of a layer's most entangled 3 %, constant neurons aside, one at least; the largest first."""
    return dense.top(max(1, round(TOP * np.count_nonzero(~dense.constant))))


def changes(dense: LayerScore, found: Disentanglement) -> dict[str, dict[str, Change]]:
    """Sum up how far a layer was disentangled: {"wasserstein", "difficulty": {"all", "top": Change}}.

    Before is the dense layer on all tokens, after the weighted number; "top" are the Wasserstein neurons. "difficulty"
    is there only if both are known.
    """
    numbers = {
        "wasserstein": (dense.wasserstein, found.wasserstein_weighted),
        "difficulty": (dense.mapping_difficulty, found.difficulty_weighted),
    }
    top = wasserstein_neurons(dense)
    return {
        name: {"all": change(before, after), "top": change(before[top], after[top])}
        for name, (before, after) in numbers.items()
        if before is not None and after is not None
    }


def disentangle(
    activations: Activations,
    weights: NDArray,
    labels: Labels,
    *,
    dense: LayerScore,
    pairs: int = 50_000,
    seed: int = 0,
) -> Disentanglement:
    """Judge the experts (k, m, d) of a layer on the clusters that `labels` (n,) make of its tokens that count.

    `dense` is the score of the layer as it was. Both outputs are computed from the inputs, even if the dump has
    outputs. Each cluster gets its share of the pairs, at most n_c // 2.

    Raises
    ------
    ShapeError
        If weights or labels do not fit the layer.
    InputError
        If the layer has no input or no weight, or a label names no expert.
    WncoreError
        As `Outputs`.
    """
    if not activations.layer.expandable:
        raise InputError(
            f"{activations.name} has no input or no weight; experts are judged by what they make of its inputs"
        )
    _check(activations.name, activations.shape, weights, labels, activations.tokens.count)
    clusters = [np.flatnonzero(labels == c) for c in range(len(weights))]
    sizes = np.array([len(members) if len(members) > 1 else 0 for members in clusters])
    own = np.broadcast_to(activations.weight.read(), weights.shape)  # as many experts: the same tiles and products
    room = activations.memory // 8
    half = activations.within((activations.memory - room) // 2)
    expanded, original = (Outputs(half, each, labels) for each in (weights, own))
    limits = _limits(activations, clusters, (weights, own))
    measured = draw_within(activations.within(room), clusters, pairs, seed) if pairs else None
    after, before, difficulty = np.full((3, *weights.shape[:2]), np.nan)
    moved = np.zeros(weights.shape[1])
    for (columns, sparse), (_, full) in zip(expanded.tiles(), original.tiles(), strict=True):
        after[:, columns], difficulty[:, columns] = _within(
            sparse, clusters, limits[0][:, columns], expanded, room, measured
        )
        before[:, columns], _ = _within(full, clusters, limits[1][:, columns], original, room)
        for block in _blocks(sparse.shape, room):
            moved[columns][block] = two_sample_distance(full[:, block], sparse[:, block])
    return Disentanglement(
        wasserstein_weighted=_weighted(after, sizes),
        wasserstein_weighted_dense=_weighted(before, sizes),
        difficulty_weighted=_weighted(difficulty, sizes) if pairs else None,
        two_sample=np.where(dense.constant, np.nan, moved / np.where(dense.constant, 1.0, dense.std)),
        noise=float(MEAN_NOISE * np.sqrt(sizes).sum() / sizes.sum()) if sizes.any() else float("nan"),
    )


def _check(name: str, shape: tuple[int, int], weights: NDArray, labels: Labels, tokens: int) -> None:
    m, d = shape
    if weights.ndim != 3 or weights.shape[1:] != shape:
        raise ShapeError(f"{name} has weights ({m}, {d}), so its experts are (k, {m}, {d}); got {weights.shape}")
    if labels.shape != (tokens,):
        raise ShapeError(f"{name} has {tokens} tokens that count, each needs a label; got {labels.shape}")
    if not 0 <= labels.min() <= labels.max() < len(weights):
        raise InputError(
            f"{name} has {len(weights)} experts; got labels from {labels.min()} to {labels.max()}, count from 0"
        )


def _limits(activations: Activations, clusters: Sequence[Indices], weights: Sequence[NDArray]) -> Float:
    """Deviations that rounding alone gives to each neuron on each cluster, for each set of weights: (s, k, m)."""
    tokens, rows = activations.tokens, np.flatnonzero(activations.tokens.keep)
    found = np.zeros((len(weights), len(clusters), activations.shape[0]))
    for c, members in enumerate(clusters):
        if len(members) < 2:
            continue
        keep = np.zeros_like(tokens.keep)
        keep[rows[members]] = True
        mine = replace(activations, tokens=Tokens(keep, tokens.sequence[members], tokens.first[members]))
        found[:, c] = [rounding_deviation(Outputs(mine, weights=each[c])) for each in weights]
    return found


def _within(
    tile: NDArray,
    clusters: Sequence[Indices],
    limits: Float,
    outputs: Outputs,
    room: int,
    measured: Sequence[MeasuredPairs] | None = None,
) -> tuple[Float, Float]:
    """Return distance and difficulty of the neurons of a tile (n, t) on each cluster, (k, t), NaN where undefined."""
    backend, dtype = outputs.backend, outputs.dtype
    distance, difficulty = np.full((2, len(clusters), tile.shape[1]), np.nan)
    for c, members in enumerate(clusters):
        if len(members) < 2:
            continue
        for block in _blocks((len(members), tile.shape[1]), room):
            y = tile[members, block]
            varies = ~_constant(y, limits[c, block])
            native = backend.asarray(y, dtype)
            distance[c, block][varies] = backend.to_numpy(backend.gaussian_distance(native))[varies]
            if measured is not None:
                difficulty[c, block][varies] = measured[c].score(backend, native, len(members), dtype)[varies]
            outputs.activations.tick(0)
    return distance, difficulty


def _blocks(shape: tuple[int, ...], room: int) -> Iterator[slice]:
    """Cut the neurons of (n, t) outputs into blocks that can be scored within `room` bytes."""
    n, t = shape
    width = max(1, room // (SCRATCH * n))
    for first in range(0, t, width):
        yield slice(first, min(t, first + width))


def _constant(y: NDArray, limits: Float) -> NDArray[np.bool_]:
    """Say which neurons of (n, t) outputs deviate by no more than their limit; few are close enough to be measured."""
    with np.errstate(over="ignore"):
        near = np.flatnonzero(np.ptp(y, axis=0) <= np.sqrt(2 * len(y)) * limits)  # range <= sqrt(2 n) deviation
    constant = np.zeros(y.shape[1], bool)
    constant[near] = y[:, near].std(axis=0, dtype=np.float64) <= limits[near]
    return constant


def _weighted(values: Float, sizes: NDArray[np.int64]) -> Float:
    """Average over clusters, by their sizes, what is defined: (k, t), (k,) -> (t,); NaN if nothing is."""
    known = np.isfinite(values)
    counts = np.where(known, sizes[:, None], 0)
    total = counts.sum(axis=0)
    shares = counts / np.where(total > 0, total, 1)
    return np.where(total > 0, (shares * np.where(known, values, 0.0)).sum(axis=0), np.nan)
