"""A Gram matrix is made safe by the first ridge of a fixed ladder that will do, in each input's own unit."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies_pruning import INPUTS, SEEDS, layers, pruned, with_ridge

from wncore.errors import InputError
from wncore.pruning.damping import DAMPINGS, RUNGS, chosen_ridge, damp, ladder
from wncore.pruning.loss import relative_errors
from wncore.pruning.methods import METHODS, PruneSpec, prune
from wncore.pruning.patterns import Unstructured

ridges = st.sampled_from([0.0, 1e-12, 1e-8, 0.01, 1.0])
dampings = pytest.mark.parametrize("damping", DAMPINGS)


def rungs(ridge):
    """The ladder, written out."""
    first = 1e-8 if 10 * ridge < 1e-8 else 10 * ridge
    return [ridge, *(first * 10**step for step in range(19))]


def relative_pivots(h):
    """Pivots of Gaussian elimination over their diagonal elements, in fractions."""
    a = [[Fraction(value) for value in row] for row in h.tolist()]
    diagonal = [a[j][j] for j in range(len(a))]
    for j, row in enumerate(a):
        for below in a[j + 1 :]:
            factor = below[j] / row[j]
            below[j:] = [x - factor * y for x, y in zip(below[j:], row[j:], strict=True)]
    return [float(a[j][j] / diagonal[j]) for j in range(len(a))]


# ---- the ridge


@given(layer=layers(), ridge=st.sampled_from([0.01, 0.1, 1.0]))
def test_a_ridge_is_a_token_more_for_each_input(layer, ridge):
    _, x = layer
    damped, longer = damp(x.T @ x, ridge), with_ridge(x, ridge)
    np.testing.assert_allclose(damped.h, longer.T @ longer, rtol=1e-13, atol=1e-13 * np.abs(damped.h).max())
    assert (damped.ridge, damped.raised) == (ridge, 0)


@given(layer=layers(), ridge=ridges)
def test_the_published_ridge_is_a_share_of_the_mean_of_the_diagonal(layer, ridge):
    _, x = layer
    h = x.T @ x
    damped = damp(h, ridge, "published")
    added = damped.h - h
    alive = ~damped.dead
    np.testing.assert_array_equal(added - np.diag(np.diag(added)), np.zeros_like(h))
    expected = damped.ridge * np.square(x).sum() / x.shape[1]
    np.testing.assert_allclose(np.diag(added)[alive], expected, rtol=1e-9, atol=1e-15 * h.max())


@given(layer=layers(kinds=("integers", "dead", "zero")), damping=st.sampled_from(DAMPINGS), ridge=ridges)
def test_one_stands_on_the_diagonal_of_dead_inputs_and_nothing_beside_it(layer, damping, ridge):
    _, x = layer
    damped, dead = damp(x.T @ x, ridge, damping), ~x.any(axis=0)
    np.testing.assert_array_equal(damped.dead, dead)
    np.testing.assert_array_equal(damped.h[dead], np.eye(len(dead))[dead])


@dampings
@given(layer=layers(), ridge=ridges)
def test_the_ridge_is_on_the_ladder_and_the_matrix_can_be_factorised(damping, layer, ridge):
    _, x = layer
    damped = damp(x.T @ x, ridge, damping)
    assert damped.ridge == pytest.approx(rungs(ridge)[damped.raised], rel=1e-14)
    assert min(relative_pivots(damped.h)) >= np.finfo(float).eps * len(damped.h) / 2
    assert np.isfinite(np.linalg.cholesky(damped.h)).all()


@dampings
@given(seed=SEEDS, d=st.integers(1, 6), tokens=st.integers(1, 8))
def test_a_ridge_of_zero_is_raised_once_if_inputs_depend_on_each_other_and_never_otherwise(damping, seed, d, tokens):
    """Sums over small integers are exact, so a pivot of zero is zero, and others are far from it."""
    x = np.random.default_rng(seed).integers(-2, 3, (tokens, d)).astype(float)
    alive = x[:, x.any(axis=0)]
    dependent = alive.shape[1] > 0 and np.linalg.matrix_rank(alive) < alive.shape[1]
    damped = damp(x.T @ x, 0.0, damping)
    assert (damped.raised, damped.ridge) == ((1, 1e-8) if dependent else (0, 0.0))


@pytest.mark.parametrize(("unit", "ridge", "raised"), [(2.0**-53, 1e-8, 1), (1e-7, 1e-6, 3), (1e-6, 1e-5, 4)])
def test_a_coarser_arithmetic_needs_a_larger_ridge(unit, ridge, raised):
    """Of two equal inputs the second pivot is r (2 + r) / (1 + r)^2 of its diagonal; it must exceed 4 units."""
    damped = damp(np.ones((2, 2)), 0.0, unit=unit)
    assert damped.raised == raised
    assert damped.ridge == pytest.approx(ridge, rel=1e-14)


@given(ridge=st.floats(0, 10))
def test_the_ladder_starts_at_the_ridge_and_is_tenfold_each_step(ridge):
    np.testing.assert_allclose([ladder(ridge, raised) for raised in range(RUNGS)], rungs(ridge), rtol=1e-14)
    assert ladder(ridge, 0) == ridge


# ---- what is chosen


@pytest.mark.parametrize(
    ("tokens", "inputs", "ridge"),
    [(1, 1, 1.0), (1, 10, 1.0), (50, 100, 1.0), (200, 100, 0.5), (10_000, 100, 0.01), (10**9, 1, 0.01)],
)
def test_the_chosen_ridge_by_hand(tokens, inputs, ridge):
    assert chosen_ridge(tokens, inputs) == ridge


@given(tokens=st.integers(1, 10**9), inputs=st.integers(1, 10**5))
def test_the_chosen_ridge_falls_with_tokens_between_one_and_a_hundredth(tokens, inputs):
    found = chosen_ridge(tokens, inputs)
    assert 0.01 <= found <= 1
    assert found >= chosen_ridge(tokens + 1, inputs)
    if inputs < tokens < 100 * inputs:
        assert found == pytest.approx(inputs / tokens, rel=1e-15)


# ---- what is survived


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("method", METHODS)
@dampings
def test_hostile_inputs_give_finite_weights_and_a_ridge_on_the_ladder(kind, method, damping):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, w = INPUTS[kind](rng, 30, 12), rng.standard_normal((5, 12))
        for ridge in (0.0, 0.01):
            spec = PruneSpec((Unstructured(0.5), Unstructured(0.9)), method, damping=damping, ridge=ridge)
            out, used, raised = prune(w[None], (x.T @ x)[None], spec)
            assert np.isfinite(out).all()
            assert (out == 0).sum(axis=(1, 2, 3)).tolist() == [30, 54]
            assert used.item() == pytest.approx(rungs(ridge)[raised.item()], rel=1e-14)


@pytest.mark.parametrize("method", ["sparsegpt", "obs"])
def test_inputs_that_depend_on_each_other_are_never_taken_for_independent(method):
    """Rounding leaves pivots where there are none, some of them positive."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        d = int(rng.integers(2, 13))
        x, w = rng.standard_normal((int(rng.integers(1, d)), d)), rng.standard_normal((2, d))
        out, ridge, _ = prune(w[None], (x.T @ x)[None], PruneSpec((Unstructured(0.5),), method, ridge=0.0))
        assert ridge.item() >= 1e-8, seed
        assert np.abs(out).max() < 1e6, seed


def errors_by_damping(method, times, seed):
    """Relative errors of a layer whose inputs are correlated, one channel massive: unit-diagonal, published."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, 48)) @ (np.eye(48) + 0.2 * rng.standard_normal((48, 48)))
    x[:, 17] *= times
    w, h = rng.standard_normal((32, 48)), x.T @ x
    specs = [PruneSpec((Unstructured(0.5),), method, damping=damping) for damping in DAMPINGS]
    return [relative_errors(pruned(w, h, spec), w, h)[0] for spec in specs]


@pytest.mark.parametrize(("method", "factor"), [("wanda", 1.6), ("sparsegpt", 1.1), ("admm", 3.5)])
@pytest.mark.parametrize("times", [300, 1000])
def test_one_massive_channel_does_not_drown_the_others(method, factor, times):
    for seed in range(3):
        ours, published = errors_by_damping(method, times, seed)
        assert published > factor * ours


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "admm"])
def test_without_a_massive_channel_either_damping_will_do(method):
    for seed in range(3):
        ours, published = errors_by_damping(method, 1, seed)
        assert published == pytest.approx(ours, rel=0.1)


# ---- what is refused


@pytest.mark.parametrize("ridge", [-1.0, -1e-300, float("nan"), float("inf")])
def test_a_ridge_is_a_positive_number(ridge):
    with pytest.raises(InputError, match=f"a ridge is a positive number, or 0; got {ridge}"):
        damp(np.eye(2), ridge)


@dampings
@pytest.mark.parametrize(
    "h",
    [[[-1.0]], [[np.nan]], [[1.0, 0.0], [0.0, -1.0]], [[1.0, np.nan], [np.nan, 1.0]], [[1.0, 2.0], [2.0, 1.0]]],
    ids=["negative", "nan", "mixed", "nan beside the diagonal", "indefinite"],
)
def test_what_is_no_sum_of_squares_is_refused(damping, h):
    with pytest.raises(InputError, match="not positive semidefinite, whatever the ridge; sum x x' over tokens again"):
        damp(h, 0.01, damping)
