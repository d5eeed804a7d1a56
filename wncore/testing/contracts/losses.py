"""The contract of `neuron_losses`: quadratic forms in float64, relative to their sums of absolute terms."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from wncore.pruning.loss import neuron_losses
from wncore.testing.contracts.contract import Answers, Arguments, Contract, Draw
from wncore.testing.contracts.layers import INPUTS, choose_layer, grams, weights
from wncore.testing.contracts.values import FEW, NEURONS
from wncore.tolerance import only_if, share


def choose(draw: Draw, dtype: str) -> dict[str, Any]:
    """Draw sizes, fewer tokens than inputs among them, and the kinds of weights and inputs."""
    return {
        "neurons": draw(NEURONS, label="neurons"),
        "inputs": draw(FEW | st.sampled_from([15, 16, 17, 40]), label="inputs"),
        "tokens": draw(st.sampled_from([1, 10, 100]), label="tokens"),
        **choose_layer(draw),
        "in_the_kernel": draw(st.booleans(), label="weights that change no output"),
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
    scale: float = 1.0,
    in_the_kernel: bool = False,
) -> Arguments:
    """Build changes of weights, and Gram matrices; `in_the_kernel` weights whose loss is nothing but rounding."""
    w = weights(rng, dtype, (experts, neurons, inputs), weights_kind)
    h = grams(rng, dtype, tokens, inputs, experts, inputs_kind, scale)
    if in_the_kernel:
        values, vectors = np.linalg.eigh(h)
        loud = values > 1e-9 * values[:, -1:]
        w = w - (w @ (vectors * loud[:, None])) @ vectors.transpose(0, 2, 1)
    return {"w": w, "h": h}


def judge(answers: Answers, arguments: Arguments, dtype: str) -> dict[str, float]:
    """Allow each loss the rounding of its d^2 terms; none is negative."""
    w, h = arguments["w"], arguments["h"]
    want = np.array([neuron_losses(*one) for one in zip(w, h, strict=True)])
    sizes = np.array([neuron_losses(np.abs(one), np.abs(gram)) for one, gram in zip(w, h, strict=True)])
    return {
        "no negative loss": only_if(bool((answers[0] >= 0).all())),
        "losses": share(answers[0], want, "float64", h.shape[1] ** 2, sizes),
    }


CONTRACT = Contract(
    operation="neuron_losses",
    choose=choose,
    make=make,
    corners=[{"inputs_kind": kind, "in_the_kernel": quiet} for kind in INPUTS for quiet in (False, True)]
    + [{"inputs": 200, "neurons": 5}, {"experts": 1}, {"weights_kind": "rectified"}],
    judge=judge,
    shapes=lambda arguments: [arguments["w"].shape[:2]],
    kinds=("float64",),
    neurons={"w": 1},
    neurons_of_answers=1,
    dtypes=("float64",),
)
