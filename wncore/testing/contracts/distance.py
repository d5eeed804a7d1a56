"""The contract of `gaussian_distance`."""

from typing import Any

import numpy as np

from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.values import SCALES, choose_outputs, outputs
from wncore.tolerance import arithmetic, share
from wncore.wasserstein import gaussian_distance


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw outputs; in float64 also of units whose squares leave its range."""
    return choose_outputs(draw, dtype, (*SCALES, 1e-200, 1e200) if dtype == "float64" else SCALES)


def make(rng: np.random.Generator, dtype: str, **choices: Any) -> Arguments:
    """Build the outputs."""
    return {"y": outputs(rng, dtype, **choices)}


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Allow for each of n cells a rounding of its own size, for the mean one of |mean| / std."""
    y = arguments["y"]
    unit = np.abs(y).max(axis=0)
    y = y / np.where(unit > 0, unit, 1.0)
    mean, std = np.abs(y.mean(axis=0)), y.std(axis=0)
    constant = (y == y[0]).all(axis=0)
    scale = np.where(constant, 0.0, 1 + mean / np.where(constant, 1.0, std))
    return {"distance": share(answers[0], gaussian_distance(arguments["y"]), arithmetic(dtype), len(y), scale)}


CONTRACT = Contract(
    operation="gaussian_distance",
    choose=choose,
    make=make,
    corners=[{"constant": True}, {"kind": "tied"}, {"offset": 1e3}, {"kind": "outlier", "tokens": 8193}],
    judge=judge,
    shapes=lambda arguments: [arguments["y"].shape[1:]],
    kinds=("float64",),
    neurons={"y": 1},
    large={"neurons": 2},
)
