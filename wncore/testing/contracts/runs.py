"""The contract of `histogram_runs`: that of `histogram`, for all tokens, and for each run over the coarser bins."""

from itertools import pairwise
from math import gcd
from typing import Any

import numpy as np
from hypothesis import strategies as st

from wncore.testing.contracts import histogram as counted
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw outputs and edges as those of `histogram`, the number of runs, and how many bins are joined."""
    return counted.choose(draw, dtype) | {
        "runs": draw(st.sampled_from([1, 2, 3, 7, 20, 32, 33]), label="runs"),
        "factor": draw(st.sampled_from([1, 2, 4, 8, 31]), label="factor"),
    }


def make(rng: np.random.Generator, dtype: str, runs: int = 3, factor: int = 2, **choices: Any) -> Arguments:
    """Build outputs and edges, and cut the tokens anywhere; no run is empty."""
    arguments = counted.make(rng, dtype, **choices)
    n, bins = len(arguments["y"]), arguments["edges"].shape[1] - 1
    inner = rng.permutation(np.arange(1, n))[: runs - 1]
    return arguments | {"starts": np.array([0, *np.sort(inner), n]), "factor": gcd(bins, factor)}


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Judge all tokens, and each run.

    A run's heights may be those over the finer bins, lifted to their new left edge: then a rounding of the coarser
    bin's width comes with each, which the contract of `histogram` forgives as well.
    """
    y, edges, starts, factor = arguments.values()
    shares = counted.judge(answers[:3], {"y": y, "edges": edges}, dtype)
    for run, (first, last) in enumerate(pairwise(starts)):
        own = tuple(part[run] for part in answers[3:])
        found = counted.judge(own, {"y": y[first:last], "edges": edges[:, ::factor]}, dtype)
        shares |= {f"{name} of runs": max(used, shares.get(f"{name} of runs", 0.0)) for name, used in found.items()}
    return shares


def shapes(arguments: Arguments) -> list[tuple[int, ...]]:
    """Return those of `histogram`, and (p, m, b / factor + 2) twice, (p, m, 4)."""
    m, runs, factor = len(arguments["edges"]), len(arguments["starts"]) - 1, arguments["factor"]
    few = (arguments["edges"].shape[1] - 1) // factor
    return [*counted.shapes(arguments), (runs, m, few + 2), (runs, m, few + 2), (runs, m, 4)]


CONTRACT = Contract(
    operation="histogram_runs",
    choose=choose,
    make=make,
    corners=[
        *({"edges": edges, "bins": 128, "factor": 8} for edges in counted.EDGES),
        *({"runs": runs, "bins": 64, "factor": 4} for runs in (1, 2, 20, 32, 33)),
        {"tokens": 1, "runs": 5},
        {"bins": 33, "factor": 3},
        {"bins": 1, "factor": 1},
        {"bins": 2, "factor": 2},
        {"tokens": 40_000, "neurons": 2, "runs": 2, "bins": 1024, "factor": 8},
    ],
    judge=judge,
    shapes=shapes,
    kinds=("int64", "float64", "float64") * 2,
    wide=frozenset({"edges"}),
    large={"neurons": 1, "bins": 1000, "runs": 20, "factor": 8},
)
