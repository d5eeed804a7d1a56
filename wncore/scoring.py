"""Score the neurons of a layer: the exact, streaming or sampled distance, its error, and the statistics beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wncore.accumulator import COARSE, Accumulator
from wncore.backend import Backend
from wncore.dumps.layer import Layer
from wncore.dumps.tensor import as_floats
from wncore.histograms import choose_edges
from wncore.mapping import Mapping, draw_mapping
from wncore.normal import Float
from wncore.outputs import Outputs
from wncore.uncertainty import noise_floor, token_groups
from wncore.wasserstein import sampled_distance

Estimator = Literal["exact", "streaming", "sampled"]
Progress = Callable[[int], object]

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
        As `Layer.tokens`, `Outputs` and `Accumulator`.
    """
    tokens = layer.tokens(skip_tokens)
    outputs = Outputs(layer, tokens, backend, memory, progress)
    mapping = draw_mapping(layer.input, tokens, pairs, seed, memory) if layer.input is not None and pairs else None
    if estimator == "streaming":
        parts = list(_streamed(outputs, mapping, bins, progress))
    else:
        parts = list(_exact(outputs, mapping, estimator, seed, progress))
    names = dict.fromkeys(name for part in parts for name in part)
    columns = {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}
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


def _exact(
    outputs: Outputs, mapping: Mapping | None, estimator: Estimator, seed: int, progress: Progress
) -> Iterator[dict[str, NDArray]]:
    """Yield the columns of a few neurons after the other, all their tokens in memory."""
    backend, tokens = outputs.backend, outputs.tokens
    groups = token_groups(tokens.sequence)
    for _, raw in outputs.tiles():
        tile, exponent = _comfortable(raw)
        y = backend.asarray(tile, outputs.dtype)
        exact = backend.to_numpy(backend.gaussian_distance(y))
        sample = tile[:: max(1, len(tile) // 1024)]
        state = Accumulator(backend, choose_edges(sample, COARSE), int(groups[-1]) + 1)
        state.add(tile, groups, tokens.first)
        part = {"wasserstein": exact, "wasserstein_low": exact, "wasserstein_high": exact}
        if estimator == "sampled":
            part["wasserstein"] = sampled_distance(tile, seed)
        if mapping:
            part |= mapping.score(backend, y, tokens.count, outputs.dtype)
        yield part | _in_unit(state.columns(), exponent)
        progress(tile.size)


def _streamed(outputs: Outputs, mapping: Mapping | None, bins: int, progress: Progress) -> Iterator[dict[str, NDArray]]:
    """Score in one pass over the tokens; neurons whose state does not fit take a pass of their own.

    The mapping difficulty takes a further pass, since a median is not additive.
    """
    groups, m = token_groups(outputs.tokens.sequence), outputs.layer.neurons
    count = int(groups[-1]) + 1
    per_neuron = 24 * (3 * bins + (count + 3) * COARSE)
    width = max(1, min(m, outputs.memory // 2 // per_neuron))
    rows = max(256, min(2**16, outputs.memory // 4 // (12 * width)))
    for first in range(0, m, width):
        columns = slice(first, min(m, first + width))
        state, exponent, done = None, None, 0
        for raw in outputs.batches(columns, rows):
            tile, exponent = _comfortable(raw, exponent)
            if state is None:
                state = Accumulator(outputs.backend, choose_edges(tile[:FIRST_BATCH], bins), count)
            part = slice(done, done + len(tile))
            state.add(tile, groups[part], outputs.tokens.first[part])
            done += len(tile)
            progress(tile.size)
        assert state is not None  # at least two tokens count
        assert exponent is not None
        low, high = state.bounds()
        bounds = {"wasserstein": low, "wasserstein_low": low, "wasserstein_high": high}
        yield bounds | _in_unit(state.columns(), exponent)
    if mapping:
        tiles = (_comfortable(raw)[0] for _, raw in outputs.tiles())
        found = [
            mapping.score(outputs.backend, outputs.backend.asarray(y, outputs.dtype), len(y), outputs.dtype)
            for y in tiles
        ]
        yield {key: np.concatenate([part[key] for part in found]) for key in found[0]}


def _in_unit(columns: dict[str, NDArray], exponent: NDArray) -> dict[str, NDArray]:
    """Undo the change of unit of `_comfortable`."""
    return columns | {name: np.ldexp(columns[name], exponent) for name in ("mean", "std")}


def _comfortable(y: NDArray, exponent: NDArray | None = None) -> tuple[NDArray, NDArray]:
    """Change the unit of float64 neurons so large or small that fourth powers would leave the range, exactly."""
    chosen = _exponent(y) if exponent is None else exponent
    return (np.ldexp(y, -chosen) if chosen.any() else y), chosen


def _exponent(y: NDArray) -> NDArray:
    if y.dtype != np.float64:
        return np.zeros(y.shape[1], np.int64)
    own = np.frexp(np.abs(y).max(axis=0))[1]
    return np.where(np.abs(own) > 200, own, 0)


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
