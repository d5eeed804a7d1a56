"""The mapping difficulty of a layer of a dump: its pairs of tokens, how far apart their inputs are, and the control."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Array, Backend
from wncore.difficulty import Indices, Pairs, draw_pairs
from wncore.dumps.tensor import as_floats
from wncore.layers.activations import Activations
from wncore.normal import Float
from wncore.norms import norms, row_sums

CHANNELS = 32
"""Inputs whose squares are added up before others', so that distances come out the same whatever the memory."""


@dataclass(frozen=True)
class MeasuredPairs:
    """Pairs of tokens whose inputs differ, and how far apart those are, (p,)."""

    pairs: Pairs
    distances: Float

    def score(self, backend: Backend, y: Array, tokens: int, dtype: str) -> Float:
        """Return the difficulties of the neurons of a tile (n, t), NaN where undefined."""
        left, right = self.pairs.left, self.pairs.right
        line = np.zeros((tokens, 1))  # only distances matter: a pair lies at 0 and at its distance on a line
        line[right, 0] = self.distances
        x, i, j = backend.asarray(line, dtype), backend.asarray(left, "int64"), backend.asarray(right, "int64")
        found = backend.to_numpy(backend.mapping_difficulty(x, y, i, j))
        return np.where(found > 0, found, np.nan)


@dataclass(frozen=True)
class Mapping:
    """Pairs of tokens measured by their true inputs, and by shuffled ones."""

    true: MeasuredPairs
    shuffled: MeasuredPairs

    @property
    def pairs(self) -> Pairs:
        """The pairs of the true inputs."""
        return self.true.pairs

    def score(self, backend: Backend, y: Array, tokens: int, dtype: str) -> dict[str, NDArray[np.float64]]:
        """Return the difficulties of the neurons of a tile (n, t), NaN where undefined."""
        return {
            "mapping_difficulty": self.true.score(backend, y, tokens, dtype),
            "mapping_difficulty_shuffled": self.shuffled.score(backend, y, tokens, dtype),
        }


def draw_mapping(activations: Activations, pairs: int, seed: int) -> Mapping:
    """Draw pairs and measure their inputs; the control pairs the same outputs with shuffled inputs."""
    tokens = activations.tokens
    drawn = draw_pairs(tokens.count, pairs, seed)
    order = np.random.default_rng([seed, 1]).permutation(tokens.count)
    rows = np.flatnonzero(tokens.keep)
    true = _input_distances(activations, rows[drawn.left], rows[drawn.right])
    shuffled = _input_distances(activations, rows[order[drawn.left]], rows[order[drawn.right]])
    return Mapping(_drop(drawn, true), _drop(drawn, shuffled))


def draw_within(activations: Activations, clusters: Sequence[Indices], pairs: int, seed: int) -> list[MeasuredPairs]:
    """Draw pairs within clusters of the tokens that count, each its share of `pairs`; measure their inputs.

    The indices of a cluster's pairs count its own tokens. One cluster of all tokens has the pairs of `draw_mapping`.
    """
    tokens = activations.tokens
    drawn = [draw_pairs(len(members), pairs * len(members) // tokens.count, seed) for members in clusters]
    parts, rows = list(zip(clusters, drawn, strict=True)), np.flatnonzero(tokens.keep)
    left = np.concatenate([rows[members[one.left]] for members, one in parts])
    right = np.concatenate([rows[members[one.right]] for members, one in parts])
    ends = np.cumsum([len(one.left) for one in drawn])[:-1]
    distances = np.split(_input_distances(activations, left, right), ends)
    return [_drop(one, part) for one, part in zip(drawn, distances, strict=True)]


def _distances_on_device(activations: Activations, left: NDArray, right: NDArray) -> Float:
    """Return ||x_i - x_j|| where x is, all channels at once: of half or single precision no square leaves the range."""
    source, found = activations.input, [np.zeros(0)]
    step = max(1, activations.memory // (64 * source.columns))
    for start in range(0, len(left), step):
        pairs = slice(start, start + step)
        gap = source.doubles(left[pairs]) - source.doubles(right[pairs])
        found.append(activations.backend.to_numpy(row_sums(gap * gap) ** 0.5))
    return np.concatenate(found)


def _drop(pairs: Pairs, distances: Float) -> MeasuredPairs:
    """Leave out pairs of equal inputs; distances become relative, since their unit does not matter and float32 ends."""
    relative = distances / (distances.max(initial=0.0) or 1.0)
    apart = relative > 2.0**-120
    return MeasuredPairs(Pairs(pairs.left[apart], pairs.right[apart], int((~apart).sum())), relative[apart])


def _input_distances(activations: Activations, left: NDArray, right: NDArray) -> Float:
    """Return ||x_i - x_j|| of pairs of rows, (p,), some channels at a time."""
    source, memory = activations.input, activations.memory
    if source.resident and not isinstance(source.doubles(left[:0]), np.ndarray):
        return _distances_on_device(activations, left, right)
    place = np.full(source.rows, -1, np.int64)
    place[left], place[right] = np.arange(len(left)), np.arange(len(left)) + len(left)
    wanted = np.flatnonzero(place >= 0)
    width = max(1, memory // 4 // (16 * max(1, len(left))) // CHANNELS) * CHANNELS
    unit = 2.0**-64 if source.dtype == "F64" else 1.0  # a difference of two numbers of 1e308 is none
    distances = np.zeros(len(left))
    for first in range(0, source.columns, width):
        channels = slice(first, min(source.columns, first + width))
        held = np.empty((2 * len(left), channels.stop - first), activations.dtype)
        for rows in np.array_split(wanted, -(-len(wanted) * source.columns * 8 // 2**25)) if len(wanted) else ():
            raw = source.pick(rows, channels)
            source.check_finite(raw, activations.tokens.keep)
            held[place[rows]] = as_floats(raw) * unit
        for start in range(0, len(left), 1024):
            part = slice(start, min(len(left), start + 1024))
            gap = held[part] - held[len(left) + part.start : len(left) + part.stop].astype(np.float64)
            for channel in range(0, gap.shape[1], CHANNELS):
                length = norms(gap[:, channel : channel + CHANNELS], axis=1)
                distances[part] = np.hypot(distances[part], length)
    return distances
