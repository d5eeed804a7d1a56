"""The contract of `linear_histogram`, whose outputs nobody sees: each may be off by the rounding of a product, delta.

Counts then need not be equal: an output beside an edge may fall to either side of it. What holds of every answer:

* All tokens are counted, and at each edge e between #(y <= e - delta) and #(y <= e + delta) of them lie below.
* The heights in a bin are positive, and at most its width.
* Counts and sums give the integral of F up to each edge, sum_t max(e - y_t, 0), and sum_t max(y_t - e, 0) beyond the
  last one. No output moves these by more than it is off itself, and none that lies beyond the edge moves them at all.
* t^k moves by at most k (|t| + delta)^(k-1) delta.

On top come the roundings of float64 sums, as in the contract of `histogram`. Sums of small whole numbers are exact in
any arithmetic: there delta is 0, and edges that lie on outputs tell <= from <.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from wncore.histograms import Counts, centre_and_unit, histogram
from wncore.normal import Float
from wncore.routing import routed_linear
from wncore.testing.contracts import histogram as counted
from wncore.testing.contracts import routing
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.tolerance import arithmetic, budget, only_if, part_used, share


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw layers as those of `routed_linear`, with a token at least, and bins as those of `histogram`."""
    choices = routing.choose(draw, dtype) | {"bins": draw(counted.BINS, label="bins")}
    choices["edges"] = draw(st.sampled_from(counted.EDGES), label="edges")
    return choices | {"tokens": max(1, choices["tokens"])}


def make(rng: np.random.Generator, dtype: str, bins: int = 16, edges: str = "chosen", **choices: Any) -> Arguments:
    """Build a layer, and edges for its outputs."""
    layer = routing.make(rng, dtype, **choices)
    return layer | {"edges": counted.place_edges(rng, routed_linear(**layer), bins, edges)}


def roundings(arguments: Arguments, dtype: str) -> Float:
    """Return how far each output may be off (n, m)."""
    given, sizes = (arguments[name] for name in ("x", "weights", "bias")), routing.sizes(arguments)
    whole = all(one is None or np.array_equal(one, np.round(one)) for one in given)
    if whole and sizes.max(initial=0.0) < 2**24:
        return np.zeros_like(sizes)
    return budget(arithmetic(dtype), arguments["x"].shape[1] + 1, sizes)


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Judge what the docstring of this module lists."""
    counts, sums, powers = answers
    edges, delta = arguments["edges"], roundings(arguments, dtype)
    y = routed_linear(*(arguments[name] for name in ("x", "weights", "bias", "labels")))
    shares = {
        "number of tokens": only_if(bool(np.all(counts >= 0) and np.all(counts.sum(axis=1) == len(y)))),
        "heights": judge_heights(counts, sums, edges),
        "powers": judge_powers(powers, y, edges, delta),
    }
    columns = zip(counts, sums, edges, y.T, delta.T, strict=True)
    judged = [judge_neuron(*column) for column in columns]
    return shares | {name: max(one[name] for one in judged) for name in ("counts", "integrals")}


def judge_neuron(counts: Counts, sums: Float, edges: Float, y: Float, delta: Float) -> dict[str, float]:
    """Judge the counts and integrals of one neuron: (b + 2,), (b + 2,), (b + 1,), (n,), (n,)."""
    below, least = np.cumsum(counts)[:-1], np.searchsorted(np.sort(y + delta), edges, side="right")
    order = np.argsort(y - delta)
    most = np.searchsorted((y - delta)[order], edges, side="right")
    moved = np.append(0.0, np.cumsum(delta[order]))  # by those that may lie below an edge
    exact_counts, exact_sums, _ = histogram(y[:, None], edges[None])
    want = integrals(exact_counts[0], exact_sums[0], edges)
    steps = np.append(0.0, np.cumsum((below[:-1] + 2 * counts[1:-1]) * np.diff(edges)))  # what was added to get there
    allowed = moved[most] + budget("float64", len(y) ** 2, abs(sums[0]) + steps)
    above, over = np.maximum(y - edges[-1], 0.0).sum(), delta[y + delta > edges[-1]].sum()
    tail = part_used(sums[-1], above, over + budget("float64", len(y) ** 2, above))
    return {
        "counts": only_if(bool(np.all((least <= below) & (below <= most)))),
        "integrals": max(part_used(integrals(counts, sums, edges), want, allowed), tail),
    }


def integrals(counts: Counts, sums: Float, edges: Float) -> Float:
    """Return sum_t max(e - y_t, 0) for each edge e: (b + 2,), (b + 2,), (b + 1,) -> (b + 1,)."""
    widths, below = np.diff(edges), np.cumsum(counts)[:-1]
    return np.cumsum(np.append(-sums[0], below[:-1] * widths + counts[1:-1] * widths - sums[1:-1]))


def judge_heights(counts: Counts, sums: Float, edges: Float) -> float:
    """Ask that heights fit into their bins, but for rounding, and that those of the tails have their sign."""
    most, inner = counts[:, 1:-1] * np.diff(edges, axis=1), sums[:, 1:-1]
    signs = np.all(sums[:, 0] <= 0) and np.all(sums[:, -1] >= 0)
    return max(only_if(bool(signs)), share(np.clip(inner, 0.0, most), inner, "float64", counts[:, 1:-1] ** 2, most))


def judge_powers(powers: Float, y: Float, edges: Float, delta: Float) -> float:
    """Compare the powers of t = (y - centre) / unit, whose errors grow with the power."""
    centre, unit = centre_and_unit(edges)
    t, off = (y - centre) / unit, delta / unit
    want = np.stack([(t**k).sum(axis=0) for k in range(1, 5)], axis=1)
    sizes = np.stack([(k + 1) * (np.abs(t) ** k).sum(axis=0) for k in range(1, 5)], axis=1)
    moved = np.stack([(k * (np.abs(t) + off) ** (k - 1) * off).sum(axis=0) for k in range(1, 5)], axis=1)
    return part_used(powers, want, moved + budget("float64", len(y) ** 2, sizes))


CONTRACT = Contract(
    operation="linear_histogram",
    choose=choose,
    make=make,
    corners=[
        {"experts": 1},
        {"experts": 1, "bias": False},
        {"experts": 5, "asked": [1, 3]},
        {"experts": 5, "asked": [4], "bias": False},
        {"tokens": 1, "inputs": 1},
        *({"kind": kind, "edges": edges} for kind in ("normal", "whole") for edges in counted.EDGES),
        {"inputs": 257, "bins": 128},
    ],
    judge=judge,
    shapes=counted.shapes,
    kinds=("int64", "float64", "float64"),
    neurons={"weights": 1, "bias": 0, "edges": 0},
    tokens={"x": 0, "labels": 0},
    wide=frozenset({"edges"}),
    large={"neurons": 1, "inputs": 5, "bins": 1000},
)
