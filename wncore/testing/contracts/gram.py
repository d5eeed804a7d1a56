"""The contract of `gram`: float64 sums, of which each may round as a product of matrices in the dtype of x does.

Products of half precision are added up in float32.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from wncore.grams import gram
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.values import FEW, choose_outputs, outputs
from wncore.tolerance import arithmetic, only_if, share


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw inputs as outputs are drawn elsewhere, but none constant, and clusters that no token belongs to."""
    clusters = draw(FEW, label="clusters")
    asked = draw(st.sets(st.integers(0, clusters - 1), min_size=1), label="clusters with tokens")
    return choose_outputs(draw, dtype) | {"constant": False, "clusters": clusters, "asked": sorted(asked)}


def make(
    rng: np.random.Generator,
    dtype: str,
    tokens: int,
    neurons: int,
    clusters: int = 3,
    asked: list[int] | None = None,
    **choices: Any,
) -> Arguments:
    """Build inputs, as many as there are neurons elsewhere, and labels."""
    x = outputs(rng, dtype, tokens, neurons, **choices)
    return {"x": x, "labels": rng.choice(asked or np.arange(clusters), tokens).astype(np.int64), "k": clusters}


def terms_of(counts: NDArray[np.int64], dtype: str) -> NDArray[np.int64]:
    """Return the terms of the budget of float64 sums over so many tokens.

    Errors of tied inputs march in step instead of walking at random. In float64 they may, as those of the definition
    do; in float32 they may through a few thousand tokens, twice as far as a walk, but those sums are added in float64.
    """
    return np.maximum(counts, 1) ** 2 if dtype == "float64" else 4 * np.maximum(counts, 1)


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Ask for equal counts, and allow each sum roundings relative to the sum of absolute terms."""
    grams, sums, counts = gram(**arguments)
    dtype = arithmetic(dtype)
    grams_of_sizes, sums_of_sizes, _ = gram(np.abs(arguments["x"]), arguments["labels"], arguments["k"])
    terms = terms_of(counts, dtype)
    return {
        "counts": only_if(np.array_equal(answers[2], counts)),
        "grams": share(answers[0], grams, dtype, terms[:, None, None], grams_of_sizes),
        "sums": share(answers[1], sums, dtype, terms[:, None], sums_of_sizes),
    }


def shapes(arguments: Arguments) -> list[tuple[int, ...]]:
    """Return (k, d, d), (k, d), (k,)."""
    d, k = arguments["x"].shape[1], arguments["k"]
    return [(k, d, d), (k, d), (k,)]


CONTRACT = Contract(
    operation="gram",
    choose=choose,
    make=make,
    corners=[
        {"tokens": 0},
        {"clusters": 1},
        {"clusters": 5, "asked": [1, 3]},
        {"offset": 1e3},
        {"kind": "tied", "offset": -30.0, "tokens": 65536, "neurons": 2, "clusters": 1},
        {"kind": "outlier", "tokens": 8193, "neurons": 2},
    ],
    judge=judge,
    shapes=shapes,
    kinds=("float64", "float64", "int64"),
    tokens={"x": 0, "labels": 0},
    large={"neurons": 3},
)
