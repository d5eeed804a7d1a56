"""The contract of `routed_linear`."""

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from wncore.normal import Float
from wncore.routing import routed_linear
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.values import FEW, NEURONS, SCALES, TOKENS, numbers, power_into, rounded
from wncore.tolerance import arithmetic, one_rounding, share

KINDS = ("normal", "heavy", "tied", "rectified", "whole")


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
        "kind": draw(st.sampled_from(KINDS), label="kind"),
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
    """Build inputs, experts and labels; "whole" numbers are so small that all sums of products are exact."""
    x, weights = numbers(rng, (tokens, inputs), kind), rng.standard_normal((experts, neurons, inputs))
    added = 1 + rng.standard_normal(neurons)
    if kind == "whole":
        scale, x, weights, added = 1.0, np.round(2 * x), np.round(2 * weights), np.round(added)
    arguments: Arguments = {
        "x": rounded(x * scale, dtype),
        "weights": rounded(weights, dtype),
        "bias": rounded(scale * added, dtype) if bias else None,
        "labels": rng.choice(asked or np.arange(experts), tokens).astype(np.int64),
    }
    smaller = power_into(float(ml_dtypes.finfo(dtype).max), sizes(arguments))
    arguments["x"] = rounded(arguments["x"] * smaller, dtype)
    arguments["bias"] = rounded(arguments["bias"] * smaller, dtype) if bias else None
    return arguments


def sizes(arguments: Arguments) -> Float:
    """Return the sums of absolute products, which roundings are relative to: (n, m)."""
    layer = {name: arguments[name] for name in ("x", "weights", "bias", "labels")}
    absolute: Arguments = {name: None if value is None else np.abs(value) for name, value in layer.items()}
    return routed_linear(**absolute)


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Allow roundings relative to the sum of absolute products; half precision is rounded once, at the end."""
    got, want = answers[0].astype(np.float64), routed_linear(**arguments)
    terms, stored = arguments["x"].shape[1] + 1, one_rounding(got, dtype)
    return {"outputs": share(got, want, arithmetic(dtype), terms, sizes(arguments), stored)}


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
        {"kind": "whole"},
    ],
    judge=judge,
    shapes=lambda arguments: [(len(arguments["x"]), arguments["weights"].shape[1])],
    kinds=("kept",),
    neurons={"weights": 1, "bias": 0},
    neurons_of_answers=1,
    large={"neurons": 3, "inputs": 5},
)
