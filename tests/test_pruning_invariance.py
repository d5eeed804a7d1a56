"""What must not matter: the order of neurons and of tokens, the units of inputs, the scale of a Gram matrix."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies_pruning import (
    ALIVE,
    INPUTS,
    METHODS,
    SEEDS,
    SemiStructured,
    Unstructured,
    layers,
    pruned,
    semistructured,
    specs,
)

from wncore.grams import gram
from wncore.pruning.damping import DAMPINGS, damp
from wncore.pruning.methods import PruneSpec

LIVELY = ("independent", "correlated", "offset", "massive x300", "massive x1000")
HOSTILE = (*LIVELY, "rank-deficient", "few tokens", "duplicated", "dead", "zero")
resolving = st.booleans()
methods_that_see_inputs = st.sampled_from([method for method in METHODS if method != "magnitude"])


def assert_same(found, expected):
    """The same mask, and weights as close as sums in another order can be."""
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


# ---- neurons


@given(layer=layers(HOSTILE, neurons=6), spec=specs(patterns=semistructured), resolve=resolving, seed=SEEDS)
def test_permuting_neurons_permutes_the_answer(layer, spec, resolve, seed):
    w, x = layer
    h, order, spec = x.T @ x, np.random.default_rng(seed).permutation(len(w)), replace(spec, resolve=resolve)
    assert_same(pruned(w[order], h, spec), pruned(w, h, spec)[order])


@given(layer=layers(LIVELY, neurons=6), spec=specs(groups=st.sampled_from(["layer", "block"])), seed=SEEDS)
def test_permuting_neurons_that_are_compared_together_permutes_the_answer(layer, spec, seed):
    w, x = layer
    h, order = x.T @ x, np.random.default_rng(seed).permutation(len(w))
    assert_same(pruned(w[order], h, spec), pruned(w, h, spec)[order])


@given(layer=layers(HOSTILE, neurons=6), spec=specs(groups=st.sampled_from(["row", "row-block"])), data=st.data())
def test_a_neuron_does_not_know_the_others(layer, spec, data):
    """With a share of its own that is a whole number of weights, it is pruned as it would be alone."""
    w, x = layer
    m, d = w.shape
    zeros = [data.draw(st.integers(0, d), label="zeros") for _ in w]
    shares = tuple(count / d if count in (0, d) else round((count + 0.01) / d, 4) for count in zeros)
    together = pruned(w, x.T @ x, replace(spec, patterns=(Unstructured(shares),)))
    alone = [pruned(w[i : i + 1], x.T @ x, replace(spec, patterns=(Unstructured(shares[i]),))) for i in range(m)]
    assert_same(together, np.concatenate(alone))


# ---- units


@given(
    layer=layers(HOSTILE),
    spec=specs(methods=methods_that_see_inputs),
    resolve=resolving,
    powers=st.lists(st.integers(-20, 20), min_size=8, max_size=8),
)
def test_the_unit_of_an_input_changes_nothing(layer, spec, resolve, powers):
    w, x = layer
    unit, spec = 2.0 ** np.array(powers[: w.shape[1]]), replace(spec, resolve=resolve)
    found = pruned(w / unit, (x * unit).T @ (x * unit), spec)
    assert_same(found * unit, pruned(w, x.T @ x, spec))


@given(layer=layers(ALIVE), powers=st.lists(st.integers(-20, 20), min_size=8, max_size=8))
def test_powers_of_two_as_units_change_no_bit_of_the_damping_and_of_admm(layer, powers):
    w, x = layer
    h, unit = x.T @ x, 2.0 ** np.array(powers[: w.shape[1]])
    units = np.outer(unit, unit)
    ours, theirs = damp(h, 0.0), damp(h * units, 0.0)
    assert ours.ridge == theirs.ridge
    np.testing.assert_array_equal(theirs.h / units, ours.h)
    spec = PruneSpec((Unstructured(0.5),), "admm", resolve=False, iterations=20)
    np.testing.assert_array_equal(pruned(w / unit, h * units, spec) * unit, pruned(w, h, spec))


def test_the_published_ridge_has_a_unit():
    """The reason for ours: with one input in a unit a thousand times smaller, other weights go."""
    rng = np.random.default_rng(0)
    w, x, unit = rng.standard_normal((8, 12)), INPUTS["correlated"](rng, 60, 12), np.where(np.arange(12) == 5, 1e3, 1.0)
    for damping, same in (("unit-diagonal", True), ("published", False)):
        spec = PruneSpec((Unstructured(0.5),), "sparsegpt", damping=damping)
        masks = [pruned(w / by, (x * by).T @ (x * by), spec) != 0 for by in (1.0, unit)]
        assert np.array_equal(*masks) == same


# ---- scale and tokens


@given(
    layer=layers(ALIVE),
    spec=specs(),
    resolve=resolving,
    power=st.integers(-100, 100),
    damping=st.sampled_from(DAMPINGS),
)
def test_a_gram_matrix_times_a_power_of_four_changes_no_bit(layer, spec, resolve, power, damping):
    w, x = layer
    spec = replace(spec, resolve=resolve, damping=damping)
    np.testing.assert_array_equal(pruned(w, x.T @ x * 4.0**power, spec), pruned(w, x.T @ x, spec))


@given(layer=layers(LIVELY), spec=specs(), power=st.integers(-100, 100))
def test_a_gram_matrix_times_a_power_of_two_changes_no_bit_of_resolved_weights(layer, spec, power):
    w, x = layer
    np.testing.assert_array_equal(pruned(w, x.T @ x * 2.0**power, spec), pruned(w, x.T @ x, spec))


@given(layer=layers(HOSTILE), spec=specs(), resolve=resolving, scale=st.floats(1e-12, 1e12))
def test_a_gram_matrix_may_have_any_scale(layer, spec, resolve, scale):
    w, x = layer
    spec = replace(spec, resolve=resolve)
    assert_same(pruned(w, x.T @ x * scale, spec), pruned(w, x.T @ x, spec))


@given(layer=layers(LIVELY), spec=specs(), resolve=resolving, seed=SEEDS)
def test_tokens_given_twice_or_in_another_order_change_nothing(layer, spec, resolve, seed):
    w, x = layer
    spec, order = replace(spec, resolve=resolve), np.random.default_rng(seed).permutation(len(x))
    expected = pruned(w, x.T @ x, spec)
    for tokens in (x[order], np.vstack([x, x[order]])):
        (h,), _, _ = gram(tokens, np.zeros(len(tokens), int), k=1)
        assert_same(pruned(w, h, spec), expected)


@given(layer=layers(("independent", "correlated")), spec=specs(), seed=SEEDS)
def test_a_token_given_twice_weighs_twice(layer, spec, seed):
    w, x = layer
    often = np.random.default_rng(seed).integers(1, 4, len(x))
    weighted = (x * often[:, None]).T @ x
    tokens = np.repeat(x, often, axis=0)
    assert_same(pruned(w, tokens.T @ tokens, spec), pruned(w, weighted, spec))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", [Unstructured(0.6), SemiStructured(2, 4)], ids=str)
def test_signs_of_inputs_and_outputs_change_nothing(method, pattern):
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal((6, 10)), INPUTS["correlated"](rng, 50, 10)
    spec, signs = PruneSpec((pattern,), method), rng.choice([-1.0, 1.0], 10)
    expected = pruned(w, x.T @ x, spec)
    assert_same(pruned(w * signs, (x * signs).T @ (x * signs), spec) * signs, expected)
    np.testing.assert_array_equal(pruned(-w, x.T @ x, spec), -expected)
