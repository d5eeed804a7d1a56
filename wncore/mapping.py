"""The mapping difficulty of a layer of a dump: its pairs of tokens, how far apart their inputs are, and the control."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Array, Backend
from wncore.difficulty import Pairs, draw_pairs
from wncore.dumps.layer import Tokens
from wncore.dumps.tensor import Tensor, as_floats
from wncore.normal import Float
from wncore.norms import norms


@dataclass(frozen=True)
class Mapping:
    """Pairs whose inputs differ, with the distances of their inputs; for the true inputs and for shuffled ones."""

    true: tuple[Pairs, Float]
    shuffled: tuple[Pairs, Float]

    @property
    def pairs(self) -> Pairs:
        """The pairs of the true inputs."""
        return self.true[0]

    def score(self, backend: Backend, y: Array, tokens: int, dtype: str) -> dict[str, NDArray[np.float64]]:
        """Return the difficulties of the neurons of a tile (n, t), NaN where undefined."""
        return {
            "mapping_difficulty": _score(backend, y, tokens, dtype, *self.true),
            "mapping_difficulty_shuffled": _score(backend, y, tokens, dtype, *self.shuffled),
        }


def draw_mapping(source: Tensor, tokens: Tokens, pairs: int, seed: int, memory: int) -> Mapping:
    """Draw pairs and measure their inputs in `source`; the control pairs the same outputs with shuffled inputs."""
    drawn = draw_pairs(tokens.count, pairs, seed)
    order = np.random.default_rng([seed, 1]).permutation(tokens.count)
    rows = np.flatnonzero(tokens.keep)
    true = _input_distances(source, rows[drawn.left], rows[drawn.right], memory)
    shuffled = _input_distances(source, rows[order[drawn.left]], rows[order[drawn.right]], memory)
    return Mapping(_drop(drawn, true), _drop(drawn, shuffled))


def _score(backend: Backend, y: Array, tokens: int, dtype: str, pairs: Pairs, distances: Float) -> Float:
    """Only distances of inputs matter, so points on a line stand for them: a pair lies at 0 and at its distance."""
    line = np.zeros((tokens, 1))
    line[pairs.right, 0] = distances
    left, right = backend.asarray(pairs.left, "int64"), backend.asarray(pairs.right, "int64")
    found = backend.to_numpy(backend.mapping_difficulty(backend.asarray(line, dtype), y, left, right))
    return np.where(found > 0, found, np.nan)


def _drop(pairs: Pairs, distances: Float) -> tuple[Pairs, Float]:
    """Leave out pairs of equal inputs; distances become relative, since their unit does not matter and float32 ends."""
    relative = distances / (distances.max(initial=0.0) or 1.0)
    apart = relative > 2.0**-120
    return Pairs(pairs.left[apart], pairs.right[apart], int((~apart).sum())), relative[apart]


def _input_distances(source: Tensor, left: NDArray, right: NDArray, memory: int) -> Float:
    """Return ||x_i - x_j|| of pairs of rows, (p,), some channels at a time."""
    place = np.full(source.rows, -1, np.int64)
    place[left], place[right] = np.arange(len(left)), np.arange(len(left)) + len(left)
    width = max(1, min(source.columns, memory // 4 // (16 * max(1, len(left)))))
    unit = 2.0**-64 if source.dtype == "F64" else 1.0  # a difference of two numbers of 1e308 is none
    distances = np.zeros(len(left))
    for first in range(0, source.columns, width):
        channels = slice(first, min(source.columns, first + width))
        held = np.empty((2 * len(left), channels.stop - first), np.float64 if source.dtype == "F64" else np.float32)
        for rows in source.chunks(source.columns * 8, 2**25):
            wanted = place[rows] >= 0
            if wanted.any():
                raw = source.read(rows, channels)[wanted]
                source.check_finite(raw)
                held[place[rows][wanted]] = as_floats(raw) * unit
        for start in range(0, len(left), 1024):
            part = slice(start, min(len(left), start + 1024))
            gap = held[part] - held[len(left) + part.start : len(left) + part.stop].astype(np.float64)
            distances[part] = np.hypot(distances[part], norms(gap, axis=1))
    return distances
