"""Score the neurons of a layer: the exact, streaming or sampled distance, its error, and the statistics beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.difficulty import Pairs, draw_pairs
from wncore.dumps.layer import Layer, Tokens
from wncore.dumps.tensor import as_floats
from wncore.errors import InputError
from wncore.histogram import Histogram, choose_edges, coarsen
from wncore.moments import moments_of
from wncore.normal import Float
from wncore.outputs import Outputs
from wncore.uncertainty import jackknife_error, noise_floor, token_groups
from wncore.wasserstein import sampled_distance

Estimator = Literal["exact", "streaming", "sampled"]
Progress = Callable[[int], object]

COARSE = 128
"""Bins of the histograms that the jackknife subtracts."""
FIRST_BATCH = 4096
"""Tokens, at most, that place the edges of the bins."""


@dataclass(frozen=True)
class LayerScore:
    """The scores of a layer's m neurons; a column (m,) is None where the layer does not have what it takes.

    Distances are in standard deviations, mean and std in the outputs' unit. A constant neuron has NaN for its distance.
    """

    name: str
    tokens: int
    neurons: int
    noise_floor: float
    """Distance that a Gaussian neuron of independent tokens stays under with probability 0.95."""
    pairs: int
    """Pairs of tokens behind the mapping difficulty."""
    dropped_pairs: int
    """Pairs left out because both tokens had the same input."""
    wasserstein: Float
    wasserstein_error: Float
    wasserstein_low: Float
    """Certified bounds of the exact distance; equal to it where it was computed exactly."""
    wasserstein_high: Float
    mapping_difficulty: Float | None
    mapping_difficulty_shuffled: Float | None
    """The control: the same outputs against shuffled inputs."""
    mean: Float
    std: Float
    skewness: Float
    excess_kurtosis: Float
    weight_norm: Float | None
    weight_magnitude: Float | None
    """Mean absolute weight."""
    constant: NDArray[np.bool_]
    first_token: NDArray[np.bool_]
    """The distance changes by more than three errors without the first token of every sequence."""

    def columns(self) -> dict[str, NDArray]:
        """Return the per-neuron columns that are there, by name."""
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in found if isinstance(value, np.ndarray)}

    def share_above_floor(self) -> float:
        """Return the share of neurons, constant ones aside, whose distance is above the noise floor; NaN if none."""
        live = self.wasserstein[~self.constant]
        return float(np.mean(live > self.noise_floor)) if len(live) else float("nan")

    def top(self, count: int) -> NDArray[np.int64]:
        """Return the indices of the most entangled neurons, the largest distance first, constant ones left out."""
        order = np.argsort(-self.wasserstein, kind="stable")
        return order[~self.constant[order]][:count]


def score_layer(
    layer: Layer,
    backend: Backend,
    *,
    estimator: Estimator = "exact",
    seed: int = 0,
    skip_tokens: int = 0,
    pairs: int = 50_000,
    bins: int = 1024,
    memory: int = 2**30,
    progress: Progress = lambda count: None,
) -> LayerScore:
    """Score every neuron of a layer of a dump; `progress` is told how many outputs were finished.

    Raises
    ------
    WncoreError
        As `Layer.tokens` and `Outputs`; and `InputError` if `bins` is not a multiple of 128.
    """
    if bins < COARSE or bins % COARSE:
        raise InputError(f"the number of bins must be a multiple of {COARSE}; got {bins}")
    tokens = layer.tokens(skip_tokens)
    outputs = Outputs(layer, tokens, backend, memory)
    mapping = _Mapping.of(layer, tokens, pairs, seed) if layer.input is not None and pairs else None
    parts = list(_parts(outputs, mapping, estimator, seed, bins, progress))
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    constant = columns["std"] == 0
    for key in ("wasserstein", "wasserstein_error", "wasserstein_low", "wasserstein_high"):
        columns[key] = np.where(constant, np.nan, columns[key])
    norm, magnitude = _weight_statistics(layer)
    return LayerScore(
        name=layer.name,
        tokens=tokens.count,
        neurons=layer.neurons,
        noise_floor=noise_floor(tokens.count),
        pairs=len(mapping.pairs.left) if mapping else 0,
        dropped_pairs=mapping.pairs.dropped if mapping else 0,
        weight_norm=norm,
        weight_magnitude=magnitude,
        constant=constant,
        mapping_difficulty=columns.pop("mapping_difficulty", None),
        mapping_difficulty_shuffled=columns.pop("mapping_difficulty_shuffled", None),
        **columns,
    )


def _parts(
    outputs: Outputs, mapping: "_Mapping | None", estimator: Estimator, seed: int, bins: int, progress: Progress
) -> Iterator[dict[str, NDArray]]:
    """Yield the columns of a few neurons after the other."""
    backend = outputs.backend
    if estimator == "streaming":
        yield from _streamed(outputs, mapping, bins, progress)
        return
    groups = token_groups(outputs.tokens.sequence)
    for _, raw in outputs.tiles():
        tile, exponent = _comfortable(raw)
        y = backend.asarray(tile, outputs.dtype)
        exact = backend.to_numpy(backend.gaussian_distance(y))
        wasserstein = sampled_distance(tile, seed) if estimator == "sampled" else exact
        state = _State(backend, choose_edges(tile[:FIRST_BATCH], COARSE), int(groups[-1]) + 1, 1)
        state.add(tile, groups, outputs.tokens.first)
        part = state.columns(exponent)
        part |= {"wasserstein": wasserstein, "wasserstein_low": exact, "wasserstein_high": exact}
        if mapping:
            part |= mapping.score(backend, tile, outputs.dtype)
        yield part
        progress(tile.size)


def _streamed(
    outputs: Outputs, mapping: "_Mapping | None", bins: int, progress: Progress
) -> Iterator[dict[str, NDArray]]:
    """Score in one pass over the tokens; neurons whose state does not fit take a pass of their own."""
    groups, m = token_groups(outputs.tokens.sequence), outputs.layer.neurons
    count = int(groups[-1]) + 1
    per_neuron = 24 * (2 * bins + (count + 2) * COARSE)
    width = max(1, min(m, outputs.memory // 2 // per_neuron))
    rows = max(256, min(2**16, outputs.memory // 4 // (12 * width)))
    for first in range(0, m, width):
        columns = slice(first, min(m, first + width))
        state, exponent, done = None, None, 0
        for raw in outputs.batches(columns, rows):
            tile, exponent = _comfortable(raw, exponent)
            if state is None:
                state = _State(outputs.backend, choose_edges(tile[:FIRST_BATCH], bins), count, bins // COARSE)
            part = slice(done, done + len(tile))
            state.add(tile, groups[part], outputs.tokens.first[part])
            done += len(tile)
            progress(tile.size)
        assert state is not None and exponent is not None  # at least two tokens count
        low, high = state.bounds()
        part = state.columns(exponent) | {"wasserstein": low, "wasserstein_low": low, "wasserstein_high": high}
        if mapping:
            part |= mapping.score(outputs.backend, _comfortable(outputs.columns(columns), exponent)[0], outputs.dtype)
        yield part


class _State:
    """The additive state of a tile: a histogram of all tokens, coarse ones of the groups and of the first tokens."""

    def __init__(self, backend: Backend, edges: Float, groups: int, factor: int) -> None:
        self.backend, self.edges, self.factor = backend, edges, factor
        self.coarse_edges = np.ascontiguousarray(edges[:, ::factor])
        self.total: Histogram | None = None
        self.groups: list[Histogram | None] = [None] * groups
        self.first: Histogram | None = None

    def add(self, tile: NDArray, groups: NDArray, first: NDArray) -> None:
        """Count a batch (n, t) whose tokens belong to rising `groups` (n,); `first` (n,) marks first tokens."""
        bounds = [0, *(np.flatnonzero(np.diff(groups)) + 1), len(groups)]
        for low, high in zip(bounds, bounds[1:], strict=False):
            part, group = self._count(tile[low:high], self.edges), int(groups[low])
            self.total = part if self.total is None else self.total + part
            coarse = self._coarsen(part)
            held = self.groups[group]
            self.groups[group] = coarse if held is None else held + coarse
        if first.any():
            part = self._count(tile[first], self.coarse_edges)
            self.first = part if self.first is None else self.first + part

    def bounds(self) -> tuple[Float, Float]:
        """Return the certified bounds of the distance."""
        assert self.total is not None
        return self._bounds(self.total.edges, self.total.counts, self.total.sums, self.total.powers)

    def columns(self, exponent: NDArray) -> dict[str, NDArray]:
        """Return error, moments and the first-token flag; `exponent` (m,) undoes the change of unit."""
        groups = [group for group in self.groups if group is not None]
        error, low = jackknife_error(groups, self._bounds)
        shift = np.zeros_like(low)
        whole = groups[0]
        for group in groups[1:]:
            whole = whole + group
        if self.first is not None and self.first.tokens <= whole.tokens - 2:
            rest = whole - self.first
            shift = np.abs(self._bounds(rest.edges, rest.counts, rest.sums, rest.powers)[0] - low)
        moments = moments_of(whole.edges, whole.counts.sum(axis=1), whole.powers)
        return {
            "wasserstein_error": error,
            "mean": np.ldexp(moments.mean, exponent),
            "std": np.ldexp(moments.std, exponent),
            "skewness": moments.skewness,
            "excess_kurtosis": moments.excess_kurtosis,
            "first_token": shift > 3 * error,
        }

    def _count(self, tile: NDArray, edges: Float) -> Histogram:
        y = self.backend.asarray(tile, tile.dtype.name)
        parts = self.backend.histogram(y, self.backend.asarray(edges, "float64"))
        return Histogram(edges, *map(self.backend.to_numpy, parts))

    def _coarsen(self, part: Histogram) -> Histogram:
        if self.factor == 1:
            return part
        counts, sums, _ = coarsen(part.counts, part.sums, part.edges, self.factor)
        return Histogram(self.coarse_edges, counts, sums, part.powers)

    def _bounds(self, edges: Float, counts: NDArray, sums: Float, powers: Float) -> tuple[Float, Float]:
        backend = self.backend
        arrays = [backend.asarray(array, "float64") for array in (edges, counts, sums, powers)]
        low, high = backend.distance_bounds(*arrays)
        return backend.to_numpy(low), backend.to_numpy(high)


@dataclass(frozen=True)
class _Mapping:
    """The pairs of a layer, the distances of their inputs, and those of the shuffled control."""

    pairs: Pairs
    distances: Float
    shuffled_pairs: Pairs
    shuffled_distances: Float

    @classmethod
    def of(cls, layer: Layer, tokens: Tokens, pairs: int, seed: int) -> "_Mapping":
        drawn = draw_pairs(tokens.count, pairs, seed)
        order = np.random.default_rng([seed, 1]).permutation(tokens.count)
        rows = np.flatnonzero(tokens.keep)
        true = _input_distances(layer, rows[drawn.left], rows[drawn.right])
        shuffled = _input_distances(layer, rows[order[drawn.left]], rows[order[drawn.right]])
        return cls(*_drop(drawn, true), *_drop(drawn, shuffled))

    def score(self, backend: Backend, tile: NDArray, dtype: str) -> dict[str, NDArray]:
        """Return the difficulties of a tile's neurons, NaN where undefined."""
        return {
            "mapping_difficulty": self._score(backend, tile, dtype, self.pairs, self.distances),
            "mapping_difficulty_shuffled": self._score(
                backend, tile, dtype, self.shuffled_pairs, self.shuffled_distances
            ),
        }

    @staticmethod
    def _score(backend: Backend, tile: NDArray, dtype: str, pairs: Pairs, distances: Float) -> NDArray:
        """Only distances of inputs matter, so that points on a line stand for them: pair k at 0 and at distance k."""
        count = len(pairs.left)
        y = np.concatenate([tile[pairs.left], tile[pairs.right]])
        x = np.concatenate([np.zeros(count), distances])[:, None]
        left, right = backend.asarray(np.arange(count), "int64"), backend.asarray(np.arange(count) + count, "int64")
        found = backend.mapping_difficulty(backend.asarray(x, dtype), backend.asarray(y, dtype), left, right)
        found = backend.to_numpy(found)
        return np.where(found > 0, found, np.nan)


def _drop(pairs: Pairs, distances: Float) -> tuple[Pairs, Float]:
    apart = distances > 0
    return Pairs(pairs.left[apart], pairs.right[apart], int((~apart).sum())), distances[apart]


def _input_distances(layer: Layer, left: NDArray, right: NDArray) -> Float:
    """Return ||x_i - x_j|| of pairs of rows, (p,), relative to the largest; reads the input once, in order."""
    source = layer.input
    assert source is not None
    place = np.full(source.rows, -1, np.int64)
    place[left], place[right] = np.arange(len(left)), np.arange(len(left)) + len(left)
    held = np.empty((2 * len(left), source.columns), np.float32 if source.itemsize < 8 else np.float64)
    for rows in source.chunks(source.columns * 8, 2**25):
        wanted = place[rows] >= 0
        if wanted.any():
            raw = source.read(rows)[wanted]
            source.check_finite(raw)
            held[place[rows][wanted]] = as_floats(raw)
    distances = np.empty(len(left))
    for first in range(0, len(left), 1024):
        gap = held[first : min(len(left), first + 1024)].astype(np.float64)
        gap -= held[len(left) + first : len(left) + first + len(gap)]
        size = np.abs(gap).max(axis=1)
        gap /= np.where(size > 0, size, 1.0)[:, None]
        distances[first : first + len(gap)] = size * np.sqrt(np.square(gap).sum(axis=1))
    return distances


def _comfortable(y: NDArray, exponent: NDArray | None = None) -> tuple[NDArray, NDArray]:
    """Change the unit of float64 neurons so large or small that fourth powers would leave the range, exactly."""
    if exponent is None:
        exponent = np.zeros(y.shape[1], np.int64)
        if y.dtype == np.float64:
            own = np.frexp(np.abs(y).max(axis=0))[1]
            exponent = np.where(np.abs(own) > 200, own, 0)
    return (np.ldexp(y, -exponent) if exponent.any() else y), exponent


def _weight_statistics(layer: Layer) -> tuple[Float | None, Float | None]:
    weight = layer.weight
    if weight is None:
        return None, None
    norms, magnitudes = [], []
    for rows in weight.chunks(weight.columns * 8, 2**25):
        raw = weight.read(rows)
        weight.check_finite(raw)
        values = as_floats(raw).astype(np.float64)
        norms.append(np.linalg.norm(values, axis=1))
        magnitudes.append(np.abs(values).mean(axis=1))
    return np.concatenate(norms), np.concatenate(magnitudes)
