"""Score the neurons of a layer: the exact, streaming or sampled distance, its error, and the statistics beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wncore.accumulator import COARSE, STATE, Accumulator
from wncore.backend import Array, Backend
from wncore.dumps.orientation import check_orientation
from wncore.layers.activations import Activations
from wncore.layers.pieces import Piece, cut, starts_of
from wncore.mapping import Mapping, draw_mapping
from wncore.normal import Float
from wncore.norms import norms, row_sums
from wncore.outputs import NARROW, Outputs
from wncore.rounding import rounding_deviation
from wncore.uncertainty import noise_floor
from wncore.wasserstein import sampled_distance

Estimator = Literal["exact", "streaming", "sampled"]

ROWS = 2**14
"""Rows that are counted at a time: always as many, so that sums come out the same."""
BINS = 1024
"""Bins of the streaming distance."""
HELD = 7
"""Histograms that wait to be added, and those that are being added, while outputs stream by."""
SAMPLE = 4096
"""Tokens, taken from all over a layer, that place the bins of the streaming distance."""
WIDE = 0.02
"""Bounds farther apart than this are pointed out."""


@dataclass(frozen=True)
class LayerScore:
    """The scores of a layer's m neurons; a column (m,) is None where the layer does not have what it takes.

    Distances are in standard deviations, mean and std in the outputs' unit. A constant neuron has NaN for its distance.
    """

    name: str
    tokens: int
    neurons: int
    noise_floor: float
    """Distance that a Gaussian neuron of independent tokens stays under with probability 0.95, by this estimator."""
    pairs: int
    """Pairs of tokens behind the mapping difficulty."""
    dropped_pairs: int
    """Pairs left out because both tokens had the same input."""
    wasserstein: Float
    wasserstein_error: Float
    wasserstein_low: Float
    """Certified bounds of the exact distance, equal to it where it was computed; the error is that of the exact too."""
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
    """Also if the outputs were computed, and deviate by no more than rounding may; then `std` is above 0."""
    first_token: NDArray[np.bool_] | None
    """The distance changes by more than three errors without the first token of every sequence; None: unknown."""
    wide_bounds: NDArray[np.bool_]
    """The certified bounds are more than 0.02 apart: the tokens that placed the bins were not like the others."""
    dtype: str
    """What the outputs are computed in, or read as."""
    sinks: int | None = None
    """Tokens whose input is over 10 times longer than the median, those left out among them; None: nobody looked."""

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
    activations: Activations,
    *,
    estimator: Estimator = "exact",
    seed: int = 0,
    pairs: int = 50_000,
    bins: int = BINS,
) -> LayerScore:
    """Score every neuron of a layer; `activations.tick` is told how many outputs were finished.

    Raises
    ------
    WncoreError
        As `check_orientation`, `Outputs` and `Accumulator`.
    """
    layer, tokens, outputs = activations.layer, activations.tokens, Outputs(activations)
    check_orientation(layer, tokens)
    mapping = draw_mapping(activations, pairs, seed) if layer.input is not None and pairs else None
    if estimator == "streaming":
        parts = list(_streamed(outputs, mapping, bins))
    else:
        parts = list(_exact(outputs, mapping, estimator, seed))
    names = dict.fromkeys(name for part in parts for name in part)
    columns = {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}
    norm, magnitude = _weight_statistics(activations)
    limit = 0.0 if layer.output is not None else rounding_deviation(outputs)
    constant = columns["std"] <= limit
    for key in ("", "_error", "_low", "_high"):
        columns[f"wasserstein{key}"] = np.where(constant, np.nan, columns[f"wasserstein{key}"])
    for key in ("skewness", "excess_kurtosis"):
        columns[key] = np.where(constant, np.nan, columns[key])
    first_token = columns.pop("first_token")
    return LayerScore(
        name=layer.name,
        tokens=tokens.count,
        neurons=layer.neurons,
        noise_floor=noise_floor(tokens.count, estimator=estimator),
        pairs=len(mapping.pairs.left) if mapping else 0,
        dropped_pairs=mapping.pairs.dropped if mapping else 0,
        weight_norm=norm,
        weight_magnitude=magnitude,
        constant=constant,
        first_token=first_token & ~constant if tokens.first.any() else None,
        wide_bounds=columns["wasserstein_high"] - columns["wasserstein_low"] > WIDE,
        dtype=outputs.dtype,
        sinks=activations.sinks,
        mapping_difficulty=columns.pop("mapping_difficulty", None),
        mapping_difficulty_shuffled=columns.pop("mapping_difficulty_shuffled", None),
        **columns,
    )


def distances(outputs: Outputs) -> Float:
    """Return the exact distance of every neuron to a Gaussian, and nothing else, (m,); NaN for a constant neuron."""
    found, spread = [], []
    for _, tile in outputs.tiles():
        y = outputs.backend.asarray(tile, outputs.dtype)
        found.append(outputs.backend.to_numpy(outputs.backend.gaussian_distance(y)))
        host = outputs.on_host(tile)
        parts = (host[:, first : first + NARROW] for first in range(0, host.shape[1], NARROW))
        spread += [part.std(axis=0, dtype=np.float64) for part in parts]  # a wide copy of a few neurons, not of all
    limit = 0.0 if outputs.layer.output is not None else rounding_deviation(outputs)
    return np.where(np.concatenate(spread) <= limit, np.nan, np.concatenate(found))


def _exact(outputs: Outputs, mapping: Mapping | None, estimator: Estimator, seed: int) -> Iterator[dict[str, NDArray]]:
    """Yield the columns of a few neurons after the other, all their tokens in memory."""
    backend, tokens = outputs.backend, outputs.tokens
    pieces = cut(tokens)
    for _, raw in outputs.tiles():
        tile, exponent = _comfortable(raw)
        y = backend.asarray(tile, outputs.dtype)
        exact = backend.to_numpy(backend.gaussian_distance(y))
        state = Accumulator(backend, backend.choose_edges(y[:: max(1, len(y) // 1024)], COARSE))
        if isinstance(raw, np.ndarray):
            for piece in pieces:
                state.add(y[piece.tokens], tokens.first[piece.tokens])
                state.end_piece()
        else:
            state.add_pieces(y, tokens.first, starts_of(pieces))
        part = {"wasserstein": exact, "wasserstein_low": exact, "wasserstein_high": exact}
        if estimator == "sampled":
            host = outputs.on_host(tile)
            blocks = [sampled_distance(host[:, k : k + 16], seed) for k in range(0, host.shape[1], 16)]
            part["wasserstein"] = np.concatenate(blocks)
        if mapping:
            part |= mapping.score(backend, y, tokens.count, outputs.dtype)
        yield part | _in_unit(state.statistics(), exponent)
        outputs.activations.tick(y.shape[0] * y.shape[1])


def _streamed(outputs: Outputs, mapping: Mapping | None, bins: int) -> Iterator[dict[str, NDArray]]:
    """Score in one pass over the tokens; neurons whose state does not fit take a pass of their own.

    The mapping difficulty takes a further pass, since a median is not additive.
    """
    m, backend, tokens = outputs.layer.neurons, outputs.backend, outputs.tokens
    pieces = cut(tokens)
    short = all(len(list(piece.steps(ROWS))) == 1 for piece in pieces)
    weight = outputs.layer.weight.columns if outputs.layer.weight is not None else 0
    width = at_once(m, weight, outputs.memory, bins)
    for first in range(0, m, width):
        columns = slice(first, min(m, first + width))
        sample, exponent = _comfortable(outputs.sample(columns, SAMPLE))
        state = Accumulator(backend, backend.choose_edges(outputs.taken(sample), bins))
        if short and not isinstance(sample, np.ndarray):  # on a device, where to launch costs more than to count
            y = outputs.taken(outputs.array([slice(0, outputs.layer.rows)], columns))
            state.add_pieces(y, tokens.first, starts_of(pieces))
            outputs.activations.tick(y.shape[0] * y.shape[1])
        else:
            _count_steps(outputs, pieces, columns, exponent, state)
        low, high = state.bounds()
        bounds = {"wasserstein": low, "wasserstein_low": low, "wasserstein_high": high}
        yield bounds | _in_unit(state.statistics(), exponent)
    if mapping:
        tiles = (_comfortable(raw)[0] for _, raw in outputs.tiles())
        found = []
        for y in tiles:
            found.append(mapping.score(backend, backend.asarray(y, outputs.dtype), len(y), outputs.dtype))
            outputs.activations.tick(0)
        yield {key: np.concatenate([part[key] for part in found]) for key in found[0]}


def _count_steps(
    outputs: Outputs, pieces: Sequence[Piece], columns: slice, exponent: NDArray, state: Accumulator
) -> None:
    """Count some neurons step by step, as their outputs are read or computed."""
    for piece in pieces:
        done = piece.tokens.start
        for rows in piece.steps(ROWS):
            raw = outputs.array([rows], columns)
            if len(raw):
                tile, _ = _comfortable(raw, exponent)
                state.add(outputs.taken(tile), outputs.tokens.first[done : done + len(tile)])
                done += len(tile)
                outputs.activations.tick(tile.shape[0] * tile.shape[1])
        state.end_piece()


def at_once(neurons: int, inputs: int, memory: int, bins: int = BINS) -> int:
    """Return how many neurons of so many inputs are streamed in one pass within so many bytes."""
    return max(1, min(neurons, memory // 2 // state_of(inputs, bins)))


def state_of(inputs: int, bins: int = BINS) -> int:
    """Return the bytes that a neuron takes while its outputs stream by."""
    return STATE + 24 * HELD * bins + 8 * (SAMPLE + inputs) + 2 * 12 * ROWS


def _in_unit(columns: dict[str, NDArray], exponent: NDArray) -> dict[str, NDArray]:
    """Undo the change of unit of `_comfortable`."""
    return columns | {name: np.ldexp(columns[name], exponent) for name in ("mean", "std")}


def _comfortable(y: Array, exponent: NDArray | None = None) -> tuple[Array, NDArray]:
    """Change the unit of float64 neurons so large or small that fourth powers would leave the range, exactly.

    Outputs on a device are none: `Matrix.floats` gives float64 by NumPy.
    """
    chosen = _exponent(y) if exponent is None else exponent
    return (np.ldexp(y, -chosen) if chosen.any() else y), chosen


def _exponent(y: Array) -> NDArray:
    if y.dtype != np.float64:
        return np.zeros(y.shape[1], np.int64)
    own = np.frexp(np.abs(y).max(axis=0))[1]
    return np.where(np.abs(own) > 200, own, 0)


def _weight_statistics(activations: Activations) -> tuple[Float | None, Float | None]:
    weight = activations.layer.weight
    if weight is None:
        return None, None
    lengths, magnitudes = [], []
    for rows in weight.chunks(weight.columns * 8, max(2**25, activations.memory // 64)):
        values = weight.doubles(rows)
        if isinstance(values, np.ndarray):
            lengths.append(norms(values, axis=1))
            magnitudes.append(np.abs(values).mean(axis=1))
        else:  # on a device, and of half or single precision: no square leaves the range
            lengths.append(row_sums(values * values) ** 0.5)
            magnitudes.append(row_sums(abs(values)) / weight.columns)
    return _joined(activations.backend, lengths), _joined(activations.backend, magnitudes)


def _joined(backend: Backend, parts: list[Array]) -> Float:
    """Bring parts to the host, all at the end, and join them."""
    return np.concatenate([part if isinstance(part, np.ndarray) else backend.to_numpy(part) for part in parts])
