"""The contract of `routed_linear`."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from wncore.routing import routed_linear
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.values import FEW, NEURONS, SCALES, TOKENS, numbers, rounded
from wncore.tolerance import share


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw sizes, no tokens and one expert among them, experts that no token asks for, and whether there is a bias."""
    experts = draw(FEW, label="experts")
    return {
        "tokens": draw(st.just(0) | TOKENS, label="tokens"),
        "neurons": draw(NEURONS, label="neurons"),
        "inputs": draw(FEW | st.sampled_from([15, 16, 17, 64, 65]), label="inputs"),
        "experts": experts,
        "asked": sorted(draw(st.sets(st.integers(0, experts - 1), min_size=1), label="experts asked for")),
        "bias": draw(st.booleans(), label="bias"),
        "kind": draw(st.sampled_from(["normal", "heavy", "tied", "rectified"]), label="kind"),
        "scale": draw(st.sampled_from(SCALES), label="scale"),
    }


def make(
    rng: np.random.Generator,
    dtype: str,
    tokens: int,
    neurons: int,
    inputs: int = 17,
    experts: int = 3,
    asked: list[int] | None = None,
    bias: bool = True,
    kind: str = "normal",
    scale: float = 1.0,
) -> Arguments:
    """Build inputs, experts and labels."""
    return {
        "x": rounded(numbers(rng, (tokens, inputs), kind) * scale, dtype),
        "weights": rounded(rng.standard_normal((experts, neurons, inputs)), dtype),
        "bias": rounded(scale * (1 + rng.standard_normal(neurons)), dtype) if bias else None,
        "labels": rng.choice(asked or np.arange(experts), tokens).astype(np.int64),
    }


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Allow roundings relative to the sum of absolute products."""
    sizes: Arguments = {name: None if value is None else np.abs(value) for name, value in arguments.items()}
    terms = arguments["x"].shape[1] + 1
    return {"outputs": share(answers[0], routed_linear(**arguments), dtype, terms, routed_linear(**sizes))}


CONTRACT = Contract(
    operation="routed_linear",
    choose=choose,
    make=make,
    corners=[
        {"tokens": 0},
        {"tokens": 0, "experts": 1, "bias": False},
        {"experts": 1},
        {"experts": 1, "bias": False},
        {"experts": 5, "asked": [1, 3]},
        {"experts": 5, "asked": [4], "bias": False},
        {"tokens": 1, "inputs": 1},
    ],
    judge=judge,
    shapes=lambda arguments: [(len(arguments["x"]), arguments["weights"].shape[1])],
    kinds=("kept",),
    neurons={"weights": 1, "bias": 0},
    neurons_of_answers=1,
)
