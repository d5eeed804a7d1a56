"""The contract of `distance_bounds`: arguments and answers are float64 throughout."""

from typing import Any

import numpy as np

from wncore.histograms import centre_and_unit, histogram
from wncore.streaming import distance_bounds
from wncore.testing.contracts import histogram as counted
from wncore.testing.contracts.contract import Answers, Arguments, Contract
from wncore.tolerance import share


def make(rng: np.random.Generator, dtype: str, **choices: Any) -> Arguments:
    """Build a histogram by the definition."""
    arguments = counted.make(rng, dtype, **choices)
    counts, sums, powers = histogram(**arguments)
    return {"edges": arguments["edges"], "counts": counts, "sums": sums, "powers": powers}


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Allow a rounding in each bin, and of the variance where it is a small difference; a constant neuron gives 0."""
    edges, counts, _, powers = arguments.values()
    n, bins = counts.sum(axis=1), edges.shape[1] - 1
    centre, unit = centre_and_unit(edges)
    first, second = (powers[:, :2] / n[:, None]).T
    variance = second - first**2
    spread = variance > 0
    variance = np.where(spread, variance, 1.0)
    reach = np.abs(edges - (centre + unit * first)[:, None]).max(axis=1) / (unit * np.sqrt(variance))
    scale = np.where(spread, 1 + reach + second / variance, 0.0)
    low, high = distance_bounds(**arguments)
    return {
        "low": share(answers[0], low, "float64", bins + 2, scale),
        "high": share(answers[1], high, "float64", bins + 2, scale),
    }


CONTRACT = Contract(
    operation="distance_bounds",
    choose=counted.choose,
    make=make,
    corners=counted.CONTRACT.corners,
    judge=judge,
    shapes=lambda arguments: [arguments["edges"].shape[:1]] * 2,
    kinds=("float64", "float64"),
    neurons={"edges": 0, "counts": 0, "sums": 0, "powers": 0},
    dtypes=("float64",),
)
