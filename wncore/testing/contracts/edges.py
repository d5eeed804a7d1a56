"""The contract of `choose_edges`: quantiles of the mixture, wherever it is not flat."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from wncore.histograms import location_and_scale, mixture_of
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.values import choose_outputs, outputs
from wncore.tolerance import only_if, share

BINS = st.sampled_from([128, 2, 16, 64, 256, 1024])


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw outputs and how many bins there are."""
    return choose_outputs(draw, dtype) | {"bins": draw(BINS, label="bins")}


def make(rng: np.random.Generator, dtype: str, bins: int = 128, **choices: Any) -> Arguments:
    """Build the outputs."""
    return {"y": outputs(rng, dtype, **choices), "bins": bins}


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Ask for edges that do not fall and lie at equal steps of the mixture's distribution function.

    That function, not the edges: where it is flat, a rounding of the level moves an edge far, and does no harm. Its
    arguments are off by what rounding does to mean and deviations, relative to the narrowest part. The first and last
    edge, beyond which it is flat, are judged themselves. The middle edge of a constant neuron is its value.
    """
    y, bins, edges = arguments["y"], arguments["bins"], answers[0]
    mean, spread, median, body = location_and_scale(y)
    grid, mixture = mixture_of(mean, spread, median, body)
    levels = np.linspace(mixture[:, 0], mixture[:, -1], bins + 1, axis=1)
    size = np.abs(mean) + np.abs(median) + spread
    constant = np.ptp(y, axis=0) == 0
    middle = np.zeros(edges.shape, bool)
    middle[constant, (bins + 1) // 2] = True
    got = np.stack([np.interp(*row) for row in zip(edges, grid, mixture, strict=True)])
    terms = len(y) ** 2 + grid.shape[1]  # of the mean, where errors of equal outputs march in step; of the mixture
    return {
        "rising": only_if(bool((np.diff(edges, axis=1) >= 0).all() and (edges[:, 0] < edges[:, -1]).all())),
        "levels": share(
            np.where(middle, 0, got),
            np.where(middle, 0, levels),
            "float64",
            terms,
            (1 + size / np.minimum(body, spread))[:, None],
        ),
        "ends": share(edges[:, [0, -1]], grid[:, [0, -1]], "float64", terms, (size + 32 * spread + 4 * body)[:, None]),
        "constant": only_if(np.array_equal(edges[middle], y[0, constant])),
    }


CONTRACT = Contract(
    operation="choose_edges",
    choose=choose,
    make=make,
    corners=[{"kind": kind, "bins": bins} for kind in ("outlier", "tied", "rectified") for bins in (128, 1024)],
    judge=judge,
    shapes=lambda arguments: [(arguments["y"].shape[1], arguments["bins"] + 1)],
    kinds=("float64",),
    neurons={"y": 1},
    large={"neurons": 2},
)
