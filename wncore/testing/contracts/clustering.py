"""The contract of `lloyd`: each token to a centroid that is as near as any, and the sums of what each then has."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from wncore.normal import Float
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.gram import terms_of
from wncore.testing.contracts.values import FEW, choose_outputs, outputs, rounded
from wncore.tolerance import arithmetic, only_if, share

PLACES = ("drawn", "duplicated", "far", "between", "on tokens")


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw tokens as outputs are drawn elsewhere, the number of clusters, and how centroids and tokens lie."""
    return choose_outputs(draw, dtype) | {
        "clusters": draw(FEW | st.sampled_from([15, 16, 17, 33]), label="clusters"),
        "starts": draw(st.integers(1, 3), label="starts"),
        "place": draw(st.sampled_from(PLACES), label="centroids"),
    }


def make(
    rng: np.random.Generator,
    dtype: str,
    tokens: int,
    neurons: int,
    clusters: int = 5,
    starts: int = 2,
    place: str = "drawn",
    **choices: Any,
) -> Arguments:
    """Build tokens, of as many numbers as there are neurons elsewhere, and centroids of several starts.

    The centroids of the first lie as said, those of the others are drawn:
    "drawn" as the tokens are, "duplicated" some of them twice, "far" one a thousand times as far, so that its cluster
    is empty, "between" with half the tokens halfway from one to another, or nearly, and "on tokens" the first ones.
    """
    drawn = outputs(rng, dtype, tokens + starts * clusters, neurons, **choices)
    x, others, centroids = (part.copy() for part in np.split(drawn, [tokens, tokens + (starts - 1) * clusters]))
    if place == "duplicated":
        centroids[1::2] = centroids[: clusters // 2 * 2 : 2]
    if place == "far":
        centroids[0] *= 1e3
    if place == "between":
        one, other = centroids[rng.integers(clusters, size=(2, tokens // 2))]
        beside = rng.choice([0.0, -1.0, 1.0], (len(one), 1)) * 10 ** rng.uniform(-8, -1, (len(one), 1))
        x[: len(one)] = (one + other) / 2 + beside * (one - other)
    if place == "on tokens":
        centroids[:tokens] = x[:clusters]
    both = rounded(np.concatenate([x, centroids, others]), dtype)
    return {"x": both[:tokens], "centroids": both[tokens:].reshape(starts, clusters, neurons)}


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Judge each start by itself."""
    x, starts = arguments.values()
    parts = zip(*answers, strict=True)
    found = [judge_start(part, x, start, arithmetic(dtype)) for part, start in zip(parts, starts, strict=True)]
    return {name: max(one[name] for one in found) for name in found[0]}


def judge_start(answers: Answers, x: Float, centroids: Float, dtype: str) -> dict[str, float]:
    """Judge the labels by their distances, and all else by the labels: two backends may part at a near tie.

    The sums are judged as those of `gram`; inertias as sums of squares, which cancel nothing.
    """
    labels, (k, r) = answers[0], centroids.shape
    if np.any((labels < 0) | (labels >= k)):
        return dict.fromkeys(("labels", "sums", "counts", "inertia"), np.inf)
    mine = labels == np.arange(k)[:, None]
    counts, own = mine.sum(axis=1), np.square(x - centroids[labels]).sum(axis=1)
    inertia, terms = np.array([own[chosen].sum() for chosen in mine]), terms_of(counts, dtype)
    sums, sizes = (np.array([values[chosen].sum(axis=0) for chosen in mine]) for values in (x, np.abs(x)))
    return {
        "labels": judge_labels(labels, x, centroids, dtype),
        "sums": share(answers[1], sums, dtype, terms[:, None], sizes),
        "counts": only_if(np.array_equal(answers[2], counts)),
        "inertia": share(answers[3], inertia, dtype, r * terms, inertia),
    }


def judge_labels(labels: np.ndarray, x: Float, centroids: Float, dtype: str) -> float:
    """Compare squared distances with the smallest, which may round as |c|^2 - 2 x'c does from amid the centroids.

    From there, not from 0, so that no digits are lost to an offset; and amid them is their median, not their mean,
    which one centroid of outliers takes along.
    """
    tokens, middle = np.arange(len(x)), np.sort(centroids, axis=0)[len(centroids) // 2]
    squares = np.array([np.square(x - centroid).sum(axis=1) for centroid in centroids])
    nearest, away = squares.argmin(axis=0), np.linalg.norm(centroids - middle, axis=1)
    reach = np.linalg.norm(x - middle, axis=1) + np.maximum(away[labels], away[nearest])
    return share(squares[labels, tokens], squares[nearest, tokens], dtype, x.shape[1], reach**2)


def shapes(arguments: Arguments) -> list[tuple[int, ...]]:
    """Return (s, n), (s, k, r), (s, k), (s, k)."""
    (s, k, r), n = arguments["centroids"].shape, len(arguments["x"])
    return [(s, n), (s, k, r), (s, k), (s, k)]


CONTRACT = Contract(
    operation="lloyd",
    choose=choose,
    make=make,
    corners=[
        {"tokens": 0},
        {"tokens": 1, "neurons": 1, "clusters": 3},
        {"clusters": 1, "tokens": 1},
        *({"place": place, "clusters": 16, "offset": offset} for place in PLACES for offset in (0.0, 1e3)),
        {"kind": "tied", "neurons": 2, "clusters": 17},
        {"kind": "tied", "offset": -30.0, "tokens": 65536, "neurons": 2, "clusters": 1},
        {"kind": "tied", "offset": -30.0, "tokens": 65536, "neurons": 1, "clusters": 1, "place": "far"},
        {"place": "between", "tokens": 8193, "neurons": 5, "clusters": 16},
        {"tokens": 5000, "neurons": 129},
        {"tokens": 300, "clusters": 16, "starts": 11},
    ],
    judge=judge,
    shapes=shapes,
    kinds=("int64", "float64", "int64", "float64"),
    tokens={"x": 0},
    by_token=frozenset({0}),
    large={"neurons": 3, "clusters": 4},
)
