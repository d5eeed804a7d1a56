"""The contract of `prune`: what is asked for, and of which layers; `matrix` judges the answers."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from wncore.normal import Float
from wncore.pruning.cells import GROUPS
from wncore.pruning.damping import DAMPINGS, Damping, damp, ladder
from wncore.pruning.methods import METHODS, Method, PruneSpec
from wncore.pruning.patterns import Pattern, Unstructured, parse_pattern
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.layers import WEIGHTS, choose_layer, grams, weights
from wncore.testing.contracts.pruning.matrix import judge_matrix
from wncore.testing.contracts.pruning.pruned import Pruned
from wncore.testing.contracts.values import FEW
from wncore.tolerance import UNIT, arithmetic, share

BY_NEURON = "by neuron"
SHARES = ["0.5", "0", "1", "0.29", "0.7", "0.01", "0.95"]
TYPED = ["2:4", "1:2", "3:5", "1:16", "4:4", "2:64"]
RIDGE = st.sampled_from([0.01, 0.0, 1e-3, 0.3])
VISIBLE = 1e-3
"""The smallest ridge in float16: a weight that another makes up for comes to about the ridge, and 1e-8 rounds to 0."""
FINISHES = ("re-solved", "as found", "rounded")


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw sizes around the edges of cells, patterns, everything that a `PruneSpec` holds, and the kind of layer."""
    method = draw(st.sampled_from(METHODS), label="method")
    group = draw(st.sampled_from([None, *GROUPS]), label="group")
    patterns = [*SHARES, *TYPED, *([BY_NEURON] if group in ("row", "row-block") else [])]
    sizes = {
        "neurons": draw(FEW if method == "obs" else FEW | st.sampled_from([15, 16, 17]), label="neurons"),
        "inputs": draw(FEW | st.sampled_from([8, 15, 16, 17] + [33, 40] * (method != "obs")), label="inputs"),
        "tokens": draw(st.sampled_from([100, 1, 2, 10, 30]), label="tokens"),
        **choose_layer(draw),
    }
    finish = draw(st.sampled_from(FINISHES), label="kept weights")
    asked = {
        "patterns": draw(st.lists(st.sampled_from(patterns), min_size=1, max_size=3), label="patterns"),
        "damping": draw(st.sampled_from(DAMPINGS), label="damping"),
        "ridge": draw(RIDGE | st.tuples(*[RIDGE] * sizes["experts"]), label="ridge"),
        "block": draw(st.sampled_from([4, 1, 5, 16, 128]), label="block"),
        "resolve": finish == "re-solved",
    }
    if method == "admm":
        asked["iterations"] = draw(st.sampled_from([60, 2, 7]), label="iterations")
    if finish == "rounded":
        asked["bits"] = draw(st.integers(2, 8), label="bits")
        asked["bits_group"] = draw(st.sampled_from([None, 1, 3, 4, 16]), label="columns of a grid")
    return sizes | asked | {"method": method, "group": group}


def make(
    rng: np.random.Generator,
    dtype: str,
    tokens: int,
    neurons: int,
    inputs: int = 24,
    experts: int = 2,
    weights_kind: str = "normal",
    inputs_kind: str = "duplicated",
    scale: float = 1.0,
    patterns: tuple[str, ...] = ("0.5", "2:4"),
    method: Method = "sparsegpt",
    ridge: float | tuple[float, ...] = 0.0,
    **asked: Any,
) -> Arguments:
    """Build weights, Gram matrices and a `PruneSpec`; by default one that takes a higher ridge than it asks for."""

    def parse(text: str) -> Pattern:
        if text != BY_NEURON:
            return parse_pattern(text)
        return Unstructured(tuple(rng.choice([0.0, 0.29, 0.5, 1.0], neurons).tolist()))

    if dtype == "float16":
        ridge = tuple(max(one, VISIBLE) for one in ridge) if isinstance(ridge, tuple) else max(ridge, VISIBLE)
    return {
        "w": weights(rng, dtype, (experts, neurons, inputs), weights_kind),
        "h": grams(rng, dtype, tokens, inputs, experts, inputs_kind, scale),
        "spec": PruneSpec(tuple(map(parse, patterns)), method=method, ridge=ridge, **asked),
    }


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Judge the ridges, then each matrix by the Gram matrix that was damped so."""
    got, (_, ridge, raised) = answers[0].astype(np.float64), answers
    w, h, spec = arguments["w"], arguments["h"], arguments["spec"]
    asked = spec.ridges(len(w))
    shares = {"ridge": max(judge_ridge(*one, spec.damping, dtype) for one in zip(ridge, raised, h, asked, strict=True))}
    if shares["ridge"] > 1:
        return shares
    damped = [
        damp(gram, ladder(first, int(rung)), spec.damping, unit=0.0)
        for gram, first, rung in zip(h, asked, raised, strict=True)
    ]
    for cells, sparse in zip(spec.cells(*w.shape[1:]), got, strict=True):
        for one in zip(sparse, w, h, damped, strict=True):
            for name, used in judge_matrix(Pruned(*one, cells, spec, dtype)).items():
                shares[name] = max(shares.get(name, 0.0), used)
    return shares


def judge_ridge(ridge: float, raised: int, h: Float, asked: float, damping: Damping, dtype: str) -> float:
    """Ask for a rung of the ladder between that which float64 needs and that which the dtype needs.

    A matrix that is barely positive definite may be taken either way: a factor of 8 allows for it, where the rungs are
    ten apart.
    """
    units = UNIT["float64"] / 8, 8 * UNIT[arithmetic(dtype)]
    lowest, highest = (damp(h, asked, damping, unit).raised for unit in units)
    if not lowest <= raised <= highest:
        return np.inf
    rung = ladder(asked, int(raised))
    return share(ridge, rung, arithmetic(dtype), 1, rung)


METHODS_AND_FINISHES = [
    {"method": method, "neurons": 5, "inputs": 16} | finish | layer
    for method in METHODS
    for finish in ({"resolve": True}, {"resolve": False}, {"resolve": False, "bits": 4})
    for layer in (
        {"inputs_kind": "correlated", "ridge": 0.01},
        {"inputs_kind": "massive", "ridge": 0.01, "group": "row"},
        {"inputs_kind": "dead", "ridge": 1e-3, "patterns": ("0.29",)},
    )
]
EDGES: list[dict[str, Any]] = [
    {"patterns": ("0.29", "3:5"), "method": "magnitude", "neurons": 5, "inputs": 40},  # 0.29 * 200 < 58 in floats
    {"patterns": ("0.95", "1:16"), "group": "row-block", "block": 16, "inputs": 40, "ridge": 0.01},
    {"patterns": (BY_NEURON,), "group": "row-block", "block": 5, "ridge": 0.01},
    {"patterns": (BY_NEURON,), "method": "wanda"},
    {"patterns": ("0", "1", "4:4"), "group": "layer"},
    {"damping": "published", "ridge": 0.01, "inputs_kind": "massive"},
    {"bits": 3, "bits_group": 4, "resolve": False, "weights_kind": "heavy", "ridge": 0.01},
    {"ridge": (0.01, 0.3, 0.0), "experts": 3, "method": "wanda", "inputs_kind": "correlated"},
    {"ridge": (1e-3, 0.0), "damping": "published", "resolve": False},
    {"inputs": 129, "neurons": 3, "inputs_kind": "correlated", "ridge": 1e-3},
    {"inputs": 200, "neurons": 2, "tokens": 300, "resolve": False, "inputs_kind": "independent"},
]
TIES = [{"weights_kind": kind, "method": method} for kind in WEIGHTS for method in ("magnitude", "sparsegpt")]

CONTRACT = Contract(
    operation="prune",
    choose=choose,
    make=make,
    corners=[*METHODS_AND_FINISHES, *EDGES, *TIES],
    judge=judge,
    shapes=lambda arguments: (
        [(len(arguments["spec"].patterns), *arguments["w"].shape)] + [arguments["w"].shape[:1]] * 2
    ),
    kinds=("kept", "float64", "int64"),
    wide=frozenset({"h"}),
)
