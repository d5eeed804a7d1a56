"""The contract of `histogram`: counts exactly, sums and powers to the rounding of float64, whatever dtype y has."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from wncore.histograms import centre_and_unit, choose_edges, histogram
from wncore.normal import Float
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.values import choose_outputs, outputs
from wncore.tolerance import budget, only_if, part_used, share

BINS = st.sampled_from([16, 1, 2, 3, 31, 32, 33, 64, 128, 1000])
EDGES = ("chosen", "early", "even", "touching", "aside")


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw outputs and the kind of edges."""
    return choose_outputs(draw, dtype) | {
        "bins": draw(BINS, label="bins"),
        "edges": draw(st.sampled_from(EDGES), label="edges"),
    }


def make(rng: np.random.Generator, dtype: str, bins: int = 16, edges: str = "chosen", **choices: Any) -> Arguments:
    """Build outputs and edges."""
    y = outputs(rng, dtype, **choices)
    return {"y": y, "edges": place_edges(rng, y, bins, edges)}


def place_edges(rng: np.random.Generator, y: Float, bins: int, kind: str) -> Float:
    """Place edges (m, b + 1).

    "chosen" as the core does, "early" by the first tokens alone, "even" over four deviations, "aside" thirty deviations
    too far, "touching" on outputs or one rounding beside them, some of them twice.
    """
    if kind == "chosen":
        return choose_edges(y, bins)
    if kind == "early":
        return choose_edges(y[: max(1, len(y) // 8)], bins)
    low, spread = y.mean(axis=0) - 2 * y.std(axis=0), np.maximum(y.std(axis=0), 1e-3 * np.abs(y[0]) + 1e-6)
    if kind == "aside":
        low = low + 30 * spread
    even = low[:, None] + spread[:, None] * np.linspace(0, 4, bins + 1)
    if kind != "touching":
        return even
    touched = y[rng.integers(len(y), size=bins + 1)].T
    beside = touched * (1 + 2.0**-52 * rng.choice([-1, 1], touched.shape))
    touched = np.where(rng.random(touched.shape) < 0.5, touched, beside)
    touched = np.sort(np.where(rng.random(touched.shape) < 0.5, touched, even), axis=1)
    touched[:, -1] += (touched[:, -1] <= touched[:, 0]) * spread  # the first edge lies below the last
    return touched


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Ask for equal counts; a sum may round as its terms do (all of one sign), and t^k loses k times what t does.

    The outputs of a neuron may be equal, and the rounding errors of their sums then march in step instead of walking at
    random: their budget grows with n, as what `distance_bounds` allows for does. Instead of floating point, heights in
    a bin may be rounded once each, to 51 bits of its width, and added up exactly; heights in a tail have no such unit.
    """
    y, edges = arguments["y"], arguments["edges"]
    counts, sums, powers = histogram(y, edges)
    centre, unit = centre_and_unit(edges)
    t = np.abs((y - centre) / unit)
    sizes = np.stack([(k + 1) * (t**k).sum(axis=0) for k in range(1, 5)], axis=1)
    fixed = np.pad(counts[:, 1:-1] * np.diff(edges, axis=1), ((0, 0), (1, 1)))
    allowed = budget("float64", np.maximum(counts, 1) ** 2, np.abs(sums)) + budget("float64", 1, fixed)
    return {
        "counts": only_if(np.array_equal(answers[0], counts)),
        "sums": part_used(answers[1], sums, allowed),
        "powers": share(answers[2], powers, "float64", len(y) ** 2, sizes),
    }


def shapes(arguments: Arguments) -> list[tuple[int, ...]]:
    """Return (m, b + 2) twice, and (m, 4)."""
    m, edges = arguments["edges"].shape
    return [(m, edges + 1), (m, edges + 1), (m, 4)]


CONTRACT = Contract(
    operation="histogram",
    choose=choose,
    make=make,
    corners=[{"edges": edges, "bins": bins} for edges in EDGES for bins in (1, 2, 33, 128)],
    judge=judge,
    shapes=shapes,
    kinds=("int64", "float64", "float64"),
    neurons={"y": 1, "edges": 0},
    tokens={"y": 0},
    wide=frozenset({"edges"}),
    large={"neurons": 1, "bins": 1000},
)
