"""The contract of `mapping_difficulty`."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from wncore.difficulty import mapping_difficulty
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.values import FEW, NEURONS, choose_kind, numbers, outputs, rounded
from wncore.tolerance import arithmetic, share

PAIRS = st.integers(0, 5) | st.sampled_from([15, 16, 17, 63, 64, 127, 128])
MANY_PAIRS = PAIRS | st.sampled_from([1024, 4095])


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw sizes, odd and even numbers of pairs down to none, and the kinds of inputs and outputs."""
    neurons = draw(NEURONS, label="neurons")
    pairs = draw(MANY_PAIRS if neurons <= 5 else PAIRS, label="pairs")
    return {
        "neurons": neurons,
        "pairs": pairs,
        "tokens": 2 * pairs + draw(FEW, label="tokens without a pair"),
        "inputs": draw(FEW | st.sampled_from([16, 33]), label="inputs"),
        "input_offset": draw(st.sampled_from([0.0, 1.0, 100.0]), label="offset of the inputs"),
        **choose_kind(draw, dtype),
    }


def make(
    rng: np.random.Generator,
    dtype: str,
    tokens: int,
    pairs: int | None = None,
    inputs: int = 5,
    input_offset: float = 0.0,
    scale: float = 1.0,
    **choices: Any,
) -> Arguments:
    """Build inputs, outputs and disjoint pairs; no pair holds the same input twice."""
    x = rounded((numbers(rng, (tokens, inputs), "normal") + input_offset) * scale, dtype)
    order = rng.permutation(tokens)
    count = tokens // 2 if pairs is None else pairs
    left, right = order[:count], order[count : 2 * count]
    apart = (x[left] != x[right]).any(axis=1)
    return {
        "x": x,
        "y": outputs(rng, dtype, tokens, scale=scale, **choices),
        "left": left[apart],
        "right": right[apart],
    }


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Allow roundings relative to the answer: a difference of two given numbers loses no digits."""
    want = mapping_difficulty(**arguments)
    terms = len(arguments["left"]) + arguments["x"].shape[1]
    return {"difficulty": share(answers[0], want, arithmetic(dtype), terms, want)}


CONTRACT = Contract(
    operation="mapping_difficulty",
    choose=choose,
    make=make,
    corners=[{"pairs": pairs, "kind": kind} for pairs in range(6) for kind in ("normal", "tied", "rectified")],
    judge=judge,
    shapes=lambda arguments: [arguments["y"].shape[1:]],
    kinds=("float64",),
    neurons={"y": 1},
    large={"neurons": 2},
)
