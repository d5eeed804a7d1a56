"""The contract of `resolve`: zeros where the mask says so, and the normal equations everywhere else."""

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from wncore.normal import Float
from wncore.pruning.damping import damp
from wncore.pruning.least_squares import resolve
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.layers import INPUTS, choose_layer, grams, weights
from wncore.testing.contracts.values import FEW, NEURONS, power_into, rounded
from wncore.tolerance import UNIT, arithmetic, one_rounding, only_if, share

TINY = 1e3
"""The smallest ridge, in units of the arithmetic's rounding: a solver needs a few times as many as there are inputs."""


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw sizes, fewer tokens than inputs among them, the kinds of weights and inputs, ridge, and share of zeros."""
    return {
        "neurons": draw(NEURONS, label="neurons"),
        "inputs": draw(FEW | st.sampled_from([15, 16, 17, 40]), label="inputs"),
        "tokens": draw(st.sampled_from([1, 10, 100]), label="tokens"),
        **choose_layer(draw),
        "ridge": draw(st.sampled_from([0.0, 0.01]), label="ridge"),
        "zeros": draw(st.sampled_from([0.5, 0.0, 0.1, 0.9, 1.0]), label="share of zeros"),
    }


def make(
    rng: np.random.Generator,
    dtype: str,
    tokens: int,
    neurons: int,
    inputs: int = 24,
    experts: int = 2,
    weights_kind: str = "normal",
    inputs_kind: str = "correlated",
    ridge: float = 0.01,
    zeros: float = 0.5,
    scale: float = 1.0,
) -> Arguments:
    """Build weights, positive definite matrices, and masks whose first row keeps all and whose last keeps nothing.

    An almost singular problem has large answers; where they would leave the range of the dtype, weights are smaller.
    """
    w = weights(rng, dtype, (experts, neurons, inputs), weights_kind)
    ridge = max(ridge, TINY * UNIT[arithmetic(dtype)])
    h = [damp(one, ridge).h for one in grams(rng, dtype, tokens, inputs, experts, inputs_kind, scale)]
    mask = rng.random(w.shape) >= zeros
    if neurons > 1:
        mask[:, 0], mask[:, -1] = True, False
    answers = np.array([resolve(*one) for one in zip(w, h, mask, strict=True)])
    w = rounded(w * power_into(float(ml_dtypes.finfo(dtype).max), answers), dtype)
    return {"w": w, "h": np.array(h), "mask": mask.astype(np.int64)}


def normal_equations(got: Float, w: Float, h: Float, where: NDArray[np.bool_], dtype: str) -> float:
    """Return the share used by (W'-W) H, which is zero at the kept weights of a least-squares solution.

    A solver that is backward stable leaves it relative to sum_l (|w'_l| + |w_l|) sqrt(H_ll H_jj), whatever the
    condition of H (Higham 2002, Accuracy and Stability of Numerical Algorithms, theorem 10.4). Half precision adds
    what its one rounding of each w'_l leaves.
    """
    unit = np.sqrt(h.diagonal())
    scale = ((np.abs(got) + np.abs(w)) @ unit)[:, None] * unit
    left = np.where(where, (got - w) @ h, 0.0)
    return share(left, np.zeros_like(left), arithmetic(dtype), len(h), scale, one_rounding(got, dtype) @ np.abs(h))


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Ask for zeros, and for the bits of rows that keep all; allow the normal equations their rounding."""
    w, h, kept = arguments["w"], arguments["h"], arguments["mask"] == 1
    got = answers[0].astype(np.float64)
    whole = kept.all(axis=2)
    return {
        "zeros": only_if(not got[~kept].any()),
        "rows that lose nothing": only_if(np.array_equal(got[whole], w[whole])),
        "normal equations": max(normal_equations(*one, dtype) for one in zip(got, w, h, kept, strict=True)),
    }


CONTRACT = Contract(
    operation="resolve",
    choose=choose,
    make=make,
    corners=[{"inputs_kind": kind, "ridge": ridge} for kind in INPUTS for ridge in (0.0, 0.01)]
    + [{"zeros": zeros} for zeros in (0.0, 0.1, 0.9, 1.0)]
    + [{"inputs": 200, "neurons": 5}, {"weights_kind": "rectified", "zeros": 0.9}],
    judge=judge,
    shapes=lambda arguments: [arguments["w"].shape],
    kinds=("kept",),
    neurons={"w": 1, "mask": 1},
    neurons_of_answers=1,
    wide=frozenset({"h"}),
)
