"""What every method promises: exact counts, dense and empty layers, free weights first; and what pruning costs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies_pruning import (
    ALIVE,
    GROUPS,
    INPUTS,
    METHODS,
    SEEDS,
    SemiStructured,
    cells_by_hand,
    groups,
    layers,
    loss,
    methods,
    patterns,
    pruned,
    specs,
    thousandths,
)

from wncore.errors import InputError, ShapeError
from wncore.pruning.alternating import admm
from wncore.pruning.damping import damp
from wncore.pruning.loss import neuron_losses, relative_errors
from wncore.pruning.methods import PruneSpec, prune
from wncore.pruning.patterns import Unstructured
from wncore.pruning.scores import magnitude_score

by_row = st.sampled_from(["row", "row-block"])
resolving = st.booleans()


# ---- how many weights go


@given(layer=layers(neurons=6, inputs=12), spec=specs(), resolve=resolving)
def test_as_many_weights_are_zero_as_the_pattern_asks_for(layer, spec, resolve):
    w, x = layer
    (pattern,), spec = spec.patterns, replace(spec, resolve=resolve)
    zero = pruned(w, x.T @ x, spec) == 0
    for where, count in cells_by_hand(pattern, spec.group, *w.shape, spec.block):
        assert sum(zero[index] for index in where) == count


@given(layer=layers(weights="integers"), spec=specs(), resolve=resolving)
def test_ties_and_zeros_among_the_weights_cost_no_other_weight(layer, spec, resolve):
    """Weights that are zero already count as pruned, so a cell never loses more than its count of others."""
    w, x = layer
    (pattern,), spec = spec.patterns, replace(spec, resolve=resolve)
    lost = (pruned(w, x.T @ x, spec) == 0) & (w != 0)
    for where, count in cells_by_hand(pattern, spec.group, *w.shape, spec.block):
        assert sum(lost[index] for index in where) <= count


@given(
    layer=layers(), spec=specs(patterns=st.just(Unstructured(0.0)) | st.just(SemiStructured(3, 3))), resolve=resolving
)
def test_a_sparsity_of_zero_returns_the_weights_to_the_bit(layer, spec, resolve):
    w, x = layer
    np.testing.assert_array_equal(pruned(w, x.T @ x, replace(spec, resolve=resolve)), w)


@given(layer=layers(), spec=specs(patterns=st.just(Unstructured(1.0))), resolve=resolving)
def test_a_sparsity_of_one_returns_zeros(layer, spec, resolve):
    w, x = layer
    np.testing.assert_array_equal(pruned(w, x.T @ x, replace(spec, resolve=resolve)), np.zeros_like(w))


@given(layer=layers(), spec=specs(groups=by_row), resolve=resolving, data=st.data())
def test_neurons_keep_all_or_nothing_if_they_are_asked_to(layer, spec, resolve, data):
    w, x = layer
    shares = [data.draw(st.sampled_from([0.0, 0.3, 1.0]), label="share") for _ in w]
    out = pruned(w, x.T @ x, replace(spec, patterns=(Unstructured(tuple(shares)),), resolve=resolve))
    for row, dense, share in zip(out, w, shares, strict=True):
        if share != 0.3:
            np.testing.assert_array_equal(row, dense if share == 0 else 0 * dense)


# ---- which weights go


@given(layer=layers(ALIVE, inputs=10), methods=methods, groups=st.sampled_from(["layer", "row"]), data=st.data())
def test_weights_that_are_zero_go_first_and_nothing_moves(layer, methods, groups, data):
    """If there are as many zeros as the pattern asks for, the layer is returned to the bit."""
    w, x = layer
    d = w.shape[1]
    zeros = data.draw(st.integers(0, d), label="zeros")
    for row in w:
        row[data.draw(st.permutations(range(d)), label="where")[:zeros]] = 0
    share = round((zeros + 0.01) / d, 4) if zeros < d else 1.0
    spec = PruneSpec((Unstructured(share),), methods, groups, iterations=20)
    np.testing.assert_array_equal(pruned(w, x.T @ x, spec), w)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "obs", "admm"])
@given(
    seed=SEEDS,
    group=groups,
    pattern=st.sampled_from([Unstructured(0.3), Unstructured(0.6), SemiStructured(2, 4)]),
    dead=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1e3]),
)
def test_weights_of_dead_inputs_go_first(method, seed, group, pattern, dead, scale):
    rng = np.random.default_rng(seed)
    w, x = rng.standard_normal((3, 10)), scale * rng.standard_normal((30, 10))
    gone = rng.permutation(10) < dead
    x[:, gone] = 0
    kept = pruned(w, x.T @ x, PruneSpec((pattern,), method, group, block=4, iterations=20)) != 0
    for where, count in cells_by_hand(pattern, group, 3, 10, 4):
        free = [index for index in where if gone[index[1]]]
        assert sum(not kept[index] for index in free) == min(count, len(free))


@given(seed=SEEDS, spec=specs(patterns=st.just(Unstructured(0.3))))
def test_weights_of_dead_inputs_stay_if_nobody_asks_for_them(seed, spec):
    """They are moved by no other weight, and move none."""
    rng = np.random.default_rng(seed)
    w, x = rng.standard_normal((4, 10)), rng.standard_normal((30, 10))
    x[:, 2:9] = 0
    out = pruned(w, x.T @ x, spec)[:, 2:9]
    np.testing.assert_allclose(out, np.where(out == 0, 0.0, w[:, 2:9]), rtol=1e-12)


@given(seed=SEEDS, spec=specs())
def test_where_no_input_is_alive_nothing_moves(seed, spec):
    w = np.random.default_rng(seed).standard_normal((3, 6))
    out = pruned(w, np.zeros((6, 6)), spec)
    np.testing.assert_allclose(out, np.where(out == 0, 0.0, w), rtol=1e-12)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "admm"])
def test_equal_weights_of_equal_inputs_go_from_the_first(method):
    spec = PruneSpec((Unstructured(0.5),), method, "layer", resolve=False)
    out = pruned(np.ones((2, 4)), np.eye(4), spec)
    assert (out == 0).ravel().tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("method", ["sparsegpt", "obs", "admm"])
def test_of_inputs_that_know_nothing_of_each_other_the_weights_go_that_wanda_takes(method):
    """Then Wanda's mask is the best of all, and no other weight can make up for any; ADMM comes to within a percent."""
    rng = np.random.default_rng(0)
    w, h = rng.standard_normal((8, 40)), np.diag(rng.uniform(0.1, 10, 40))
    best, found = (pruned(w, h, PruneSpec((Unstructured(0.5),), name, "row")) for name in ("wanda", method))
    if method != "admm":
        np.testing.assert_array_equal(found, best)
    assert relative_errors(found, w, h)[0] <= relative_errors(best, w, h)[0] * 1.01


def test_magnitude_is_the_size_of_the_weight():
    np.testing.assert_array_equal(magnitude_score([[-3.0, 2.0, 0.0]]), [[3.0, 2.0, 0.0]])


@pytest.mark.parametrize(("method", "kept"), [("magnitude", [3.0, 0.0]), ("wanda", [0.0, 2.0])])
def test_wanda_weighs_by_the_inputs_and_magnitude_does_not(method, kept):
    spec = PruneSpec((Unstructured(0.5),), method, resolve=False)
    assert pruned(np.array([[3.0, 2.0]]), np.diag([1.0, 4.0]), spec).tolist() == [kept]


# ---- several at once


@given(layer=layers(), spec=specs(), more=st.lists(patterns, max_size=2))
def test_patterns_in_one_call_are_those_of_separate_calls(layer, spec, more):
    w, x = layer
    together = replace(spec, patterns=(*spec.patterns, *more))
    out, ridge, raised = prune(w[None], (x.T @ x)[None], together)
    apart = [pruned(w, x.T @ x, replace(spec, patterns=(pattern,))) for pattern in together.patterns]
    np.testing.assert_array_equal(out[:, 0], apart)
    assert (ridge.tolist(), raised.tolist()) == ([0.01], [0])


@given(seed=SEEDS, spec=specs(ridge=0.0), k=st.integers(1, 4))
def test_experts_are_pruned_each_on_its_own_inputs(seed, spec, k):
    rng = np.random.default_rng(seed)
    w, x = rng.standard_normal((k, 3, 6)), rng.integers(-9, 10, (k, 60, 6)).astype(float)
    x[1:2] = x[1:2, :, :1]  # rank one: the ridge must be raised
    h = np.array([part.T @ part for part in x])
    out, ridge, raised = prune(w, h, spec)
    for expert in range(k):
        alone, its_ridge, its_raised = prune(w[expert : expert + 1], h[expert : expert + 1], spec)
        np.testing.assert_array_equal(out[:, expert], alone[:, 0])
        assert (ridge[expert], raised[expert]) == (its_ridge.item(), its_raised.item())
    assert raised.tolist() == [0, 1, 0, 0][:k]
    assert (ridge.dtype, raised.dtype) == (np.float64, np.int64)


@given(layer=layers(inputs=12), spec=specs(), resolve=resolving)
def test_nothing_is_written_into_and_memory_layout_changes_nothing(layer, spec, resolve):
    w, x = layer
    h, spec = x.T @ x, replace(spec, resolve=resolve)
    before = w.copy(), h.copy()
    expected = pruned(w, h, spec)
    strided = np.zeros((2 * w.shape[0], 3 * w.shape[1]))[::-2, ::3]
    strided[:] = w
    for same in (np.asfortranarray(w), strided):
        np.testing.assert_allclose(pruned(same, np.asfortranarray(h), spec), expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_array_equal(w, before[0])
    np.testing.assert_array_equal(h, before[1])


# ---- what is asked for


def test_each_method_has_its_own_comparison_group():
    defaults = {"magnitude": "layer", "wanda": "row", "sparsegpt": "block", "obs": "layer", "admm": "layer"}
    assert {method: PruneSpec((Unstructured(0.5),), method).compared for method in METHODS} == defaults
    assert [PruneSpec((Unstructured(0.5),), "wanda", group).compared for group in GROUPS] == list(GROUPS)


def test_iterations_are_those_of_admm():
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((4, 9)), INPUTS["correlated"](rng, 40, 9)
    for steps in (2, 7):
        spec = PruneSpec((Unstructured(0.5),), "admm", resolve=False, iterations=steps)
        expected, _ = admm(w, damp(x.T @ x, 0.01), spec.cells(4, 9)[0], steps)
        np.testing.assert_array_equal(pruned(w, x.T @ x, spec), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "obc"}, "no pruning method 'obc'; choose one of magnitude, wanda, sparsegpt, obs, admm"),
        ({"bits": 1, "resolve": False}, "rounded to 2 to 8 bits; got 1"),
        ({"bits": 0, "resolve": False}, "rounded to 2 to 8 bits; got 0"),
        ({"bits": 9, "resolve": False}, "rounded to 2 to 8 bits; got 9"),
        ({"bits": 4}, "would leave the grid; ask for bits, or for resolve, not both"),
        ({"bits_group": 0}, "bits_group must be at least 1; got 0"),
        ({"block": 0}, "block must be at least 1; got 0"),
        ({"iterations": 1}, "iterations must be at least 2; got 1"),
    ],
)
def test_what_cannot_be_done_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        PruneSpec((Unstructured(0.5),), **given)


def test_shares_for_another_number_of_neurons_are_refused():
    with pytest.raises(ShapeError, match="there are 2 sparsities for 3 neurons"):
        prune(np.ones((1, 3, 4)), np.eye(4)[None], PruneSpec((Unstructured((0.5, 0.5)),), group="row"))


# ---- what it costs


@given(layer=layers(neurons=6), thousandth=thousandths)
def test_errors_are_sums_over_tokens(layer, thousandth):
    w, x = layer
    sparse = w * (np.abs(w) > thousandth / 500)
    lost, whole = loss(x, sparse, w), loss(x, 0 * w, w)
    total, each = relative_errors(sparse, w, x.T @ x)
    np.testing.assert_allclose(neuron_losses(w, x.T @ x), whole, rtol=1e-10, atol=1e-14 * np.square(x).sum())
    if x.any():
        assert total == pytest.approx(lost.sum() / whole.sum(), rel=1e-9, abs=1e-12)
        np.testing.assert_allclose(each * whole, lost, rtol=1e-9, atol=1e-12 * whole.max())
    else:
        assert total == each.max() == 0


def test_nothing_over_nothing_is_zero_and_something_over_nothing_is_infinite():
    total, each = relative_errors([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]], np.eye(2))
    assert each.tolist() == [np.inf, 0.0, 0.25]
    assert total == 0.5
    assert relative_errors([[1.0]], [[0.0]], [[1.0]])[0] == np.inf
    assert relative_errors([[0.0]], [[0.0]], [[1.0]])[0] == 0.0


def test_a_loss_is_never_negative_though_rounding_may_be():
    h = np.array([[1.0, -1.0], [-1.0, 1.0]]) * (1 + 2.0**-52) - np.diag([2.0**-52, 0.0])
    assert neuron_losses([[1.0, 1.0]], h).tolist() == [0.0]
