"""Layers to prune: weights with zeros, ties and equal rows, and Gram matrices that are hard to factorise."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from wncore.normal import Float
from wncore.testing.contracts.contract import Draw
from wncore.testing.contracts.values import SCALES, numbers, rounded

WEIGHTS = ("normal", "heavy", "rectified", "tied", "equal")
INPUTS = ("independent", "correlated", "duplicated", "dead", "massive")


def choose_layer(draw: Draw) -> dict[str, Any]:
    """Draw the number of experts, the kinds of weights and inputs, and the unit of the inputs."""
    return {
        "experts": draw(st.integers(1, 3), label="experts"),
        "weights_kind": draw(st.sampled_from(WEIGHTS), label="weights"),
        "inputs_kind": draw(st.sampled_from(INPUTS), label="kind of inputs"),
        "scale": draw(st.sampled_from(SCALES), label="scale"),
    }


def weights(rng: np.random.Generator, dtype: str, shape: tuple[int, int, int], kind: str) -> Float:
    """Draw weights (k, m, d): "rectified" has zeros and a row of them, "equal" has rows of one number."""
    if kind == "equal":
        return np.ones(shape) * (1 + np.arange(shape[1]) % 3)[:, None]
    w = numbers(rng, shape, kind)
    if kind == "rectified":
        w[:, shape[1] // 2] = 0
    return rounded(w, dtype)


def grams(
    rng: np.random.Generator, dtype: str, tokens: int, inputs: int, experts: int, kind: str, scale: float
) -> Float:
    """Draw a Gram matrix for each expert, (k, d, d) float64 sums over inputs of the dtype.

    Its rank is not full if there are fewer tokens than inputs.
    """
    x = rng.standard_normal((experts, tokens, inputs)) * scale
    if kind == "correlated":
        x += 2 * scale * rng.standard_normal((experts, tokens, 1))
    if kind == "duplicated":
        x[..., 1::2] = x[..., : inputs // 2 * 2 : 2]
    if kind == "dead":
        x[..., ::3] = 0
    if kind == "massive":
        x[..., inputs // 2] *= 1e3
    return np.array([one.T @ one for one in rounded(x, dtype)])
