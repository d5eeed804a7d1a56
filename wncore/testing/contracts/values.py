"""What is drawn: sizes around the edges of blocks, and outputs with ties, heavy tails, offsets and odd units.

Hypothesis draws sizes and kinds, so that it can name and shrink them; the numbers come from a seeded generator.
"""

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from wncore.normal import Float
from wncore.testing.contracts.contract import Draw

FEW = st.integers(1, 5)
NEURONS = FEW | st.sampled_from([15, 16, 17, 31, 33, 63, 64, 65])
TOKENS = st.integers(1, 40) | st.sampled_from([31, 33, 64, 65, 255, 256, 257])
MANY_TOKENS = TOKENS | st.sampled_from([1023, 1025, 8191, 8192, 8193])
KINDS = ("normal", "heavy", "skewed", "tied", "rectified", "bimodal", "outlier")
SCALES = (1.0, 1e-3, 1e3)
OFFSETS = (0.0, 1.0, -30.0, 1e3)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> Float:
    """Draw numbers of about unit size, of a kind of `KINDS`."""
    x = rng.standard_normal(shape)
    if kind == "heavy":
        return x**3
    if kind == "skewed":
        return np.exp(x)
    if kind == "tied":
        return np.round(x)
    if kind == "rectified":
        return np.maximum(x, 0)
    if kind == "bimodal":
        return x / 4 + np.sign(x)
    if kind == "outlier" and x.size:
        x[rng.integers(len(x))] *= 1e4
    return x


def rounded(x: NDArray, dtype: str) -> Float:
    """Round to a dtype, seen in float64: definition and backend get the same numbers.

    Numbers that would leave its range (that of float16 ends at 65504) are made smaller, all by one power of two.
    """
    return (x * power_into(float(ml_dtypes.finfo(dtype).max), x)).astype(dtype).astype(np.float64)


def power_into(largest: float, x: NDArray) -> float:
    """Return 1, or the power of two that brings all of x below half the largest number."""
    size = float(np.abs(x).max(initial=0))
    return 1.0 if size <= largest / 2 else 2.0 ** np.floor(np.log2(largest / 2 / size))


def choose_outputs(draw: Draw, dtype: str, scales: tuple[float, ...] = SCALES) -> dict[str, Any]:
    """Draw the keywords of `outputs`; there are many tokens only where there are few neurons, to save time."""
    neurons = draw(NEURONS, label="neurons")
    tokens = draw(MANY_TOKENS if neurons <= 5 else TOKENS, label="tokens")
    return {"tokens": tokens, "neurons": neurons, **choose_kind(draw, dtype, scales)}


def choose_kind(draw: Draw, dtype: str, scales: tuple[float, ...] = SCALES) -> dict[str, Any]:
    """Draw the kind, offset and scale of outputs, and whether some neurons are constant."""
    offsets = (*OFFSETS, 1e6) if dtype == "float64" else OFFSETS
    return {
        "kind": draw(st.sampled_from(KINDS), label="kind"),
        "offset": draw(st.sampled_from(offsets), label="offset"),
        "scale": draw(st.sampled_from(scales), label="scale"),
        "constant": draw(st.booleans(), label="constant neurons"),
    }


def outputs(
    rng: np.random.Generator,
    dtype: str,
    tokens: int,
    neurons: int,
    kind: str = "normal",
    offset: float = 0.0,
    scale: float = 1.0,
    constant: bool = False,
) -> Float:
    """Draw outputs (n, m); each neuron has an offset and a unit of its own, every third is constant if asked for."""
    place = np.arange(neurons)
    y = (numbers(rng, (tokens, neurons), kind) + offset * np.cos(place)) * (scale * (1 + place % 5))
    if constant:
        y[:, ::3] = y[0, ::3]
    return rounded(y, dtype)
