"""SparseGPT against least squares column by column, and against the published loop with its lazy updates."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from strategies_pruning import (
    BENIGN,
    INPUTS,
    SEEDS,
    cells_by_hand,
    groups,
    keep_all_but_the_lowest,
    layers,
    loss,
    patterns,
    pruned,
    with_ridge,
)

from wncore.pruning.cells import Cells, cells_of
from wncore.pruning.damping import damp
from wncore.pruning.least_squares import resolve
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import SemiStructured, Unstructured
from wncore.pruning.sweep import inverse_factor, sparsegpt

RIDGE = 0.01


def grid_by_hand(weights, bits):
    """All levels of each row between its least and its largest weight, zero among them."""
    low, high = min(weights.min(), 0.0), max(weights.max(), 0.0)
    step = (high - low) / (2**bits - 1) or 1.0
    return (np.arange(2**bits) - np.round(-low / step)) * step


def nearest(value, grid):
    return grid[np.argmin(np.abs(grid - value))]


def sweep_by_regression(w, x, cells, bits=None, span=None):
    """Before column j is pruned, it and all to its right are refitted to the dense outputs, given those to its left.

    A weight is worth its square times what is left of its input when those to the right have explained what they can.
    """
    d = w.shape[1]
    rest = [x[:, j] - x[:, j + 1 :] @ np.linalg.lstsq(x[:, j + 1 :], x[:, j])[0] for j in range(d)]
    value = np.array([column @ column for column in rest])
    new, kept, grids = np.zeros(w.shape), np.ones(w.shape, bool), None
    for j in range(d):
        now = new.copy()
        now[:, j:] = np.linalg.lstsq(x[:, j:], x @ w.T - x[:, :j] @ new[:, :j].T)[0].T
        starting = [(where, count) for where, count in cells if min(column for _, column in where) == j]
        kept &= keep_all_but_the_lowest(now**2 * value, starting)
        if bits and j % (span or d) == 0:
            grids = [grid_by_hand(row[j : j + (span or d)], bits) for row in now]
        column = [nearest(*pair) for pair in zip(now[:, j], grids, strict=True)] if bits else now[:, j]
        new[:, j] = np.where(kept[:, j], column, 0.0)
    return new, kept


@given(layer=layers(BENIGN, inputs=7), pattern=patterns, group=groups, block=st.integers(1, 8))
def test_each_column_is_pruned_from_weights_refitted_to_the_columns_before(layer, pattern, group, block):
    w, x = layer
    m, d = w.shape
    found, mask = sparsegpt(w, damp(x.T @ x, RIDGE), cells_of(pattern, group, m, d, block))
    expected = sweep_by_regression(w, with_ridge(x, RIDGE), cells_by_hand(pattern, group, m, d, block))
    np.testing.assert_array_equal(mask, expected[1])
    np.testing.assert_allclose(found, expected[0], rtol=1e-8, atol=1e-9)


@given(
    layer=layers(("independent", "correlated", "offset"), inputs=7),
    pattern=patterns,
    bits=st.integers(2, 5),
    span=st.none() | st.integers(1, 8),
)
def test_rounding_to_a_grid_is_part_of_the_same_sweep(layer, pattern, bits, span):
    w, x = layer
    m, d = w.shape
    found, mask = sparsegpt(w, damp(x.T @ x, RIDGE), cells_of(pattern, "block", m, d, 3), bits=bits, bits_group=span)
    expected = sweep_by_regression(w, with_ridge(x, RIDGE), cells_by_hand(pattern, "block", m, d, 3), bits, span)
    np.testing.assert_array_equal(mask, expected[1])
    np.testing.assert_allclose(found, expected[0], rtol=1e-8, atol=1e-9)


def published_loop(w, h, block, zeros=None, n_of_m=None, mask=None):
    """The loop of the authors' fasterprune, its counts of zeros aside: eager within a block, lazy beyond it."""
    w, d = w.copy(), w.shape[1]
    u = scipy.linalg.cholesky(scipy.linalg.inv(h), lower=False)
    for start in range(0, d, block):
        end = min(start + block, d)
        now, factor = w[:, start:end].copy(), u[start:end, start:end]
        chosen, errors = np.zeros(now.shape, bool), np.zeros(now.shape)
        if mask is not None:
            chosen = ~mask[:, start:end]
        elif zeros is not None:
            scores = now**2 / np.diag(factor) ** 2
            chosen = scores <= np.sort(scores.ravel())[zeros[start // block] - 1]
        for i in range(end - start):
            if n_of_m is not None and i % n_of_m[1] == 0:
                group = slice(i, i + n_of_m[1])
                scores = now[:, group] ** 2 / np.diag(factor)[group] ** 2
                lowest = np.argsort(scores, axis=1)[:, : n_of_m[1] - n_of_m[0]]
                chosen[np.arange(len(w))[:, None], i + lowest] = True
            sparse = np.where(chosen[:, i], 0.0, now[:, i])
            errors[:, i] = (now[:, i] - sparse) / factor[i, i]
            now[:, i:] -= np.outer(errors[:, i], factor[i, i:])
            w[:, start + i] = sparse
        w[:, end:] -= errors @ u[start:end, end:]
    return w


@pytest.fixture
def larger():
    """Weights (9, 24) and a damped Gram matrix."""
    rng = np.random.default_rng(3)
    x = INPUTS["correlated"](rng, 200, 24)
    return rng.standard_normal((9, 24)), damp(x.T @ x, RIDGE)


@pytest.mark.parametrize("block", [24, 12, 8, 7])
def test_equals_the_published_loop(larger, block):
    w, damped = larger
    cells = cells_of(Unstructured(0.6), "block", *w.shape, block)
    found, _ = sparsegpt(w, damped, cells)
    expected = published_loop(w, damped.h, block, zeros=cells.counts[0])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("n_of_m", [(2, 4), (1, 3), (5, 6)])
def test_equals_the_published_loop_for_n_of_m(larger, n_of_m):
    w, damped = larger
    found, _ = sparsegpt(w, damped, cells_of(SemiStructured(*n_of_m), "block", *w.shape))
    expected = published_loop(w, damped.h, 12, n_of_m=n_of_m)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@given(seed=SEEDS)
def test_equals_the_published_loop_for_a_mask_that_is_known(seed):
    rng = np.random.default_rng(seed)
    w, x, mask = rng.standard_normal((3, 12)), INPUTS["correlated"](rng, 50, 12), rng.random((3, 12)) < 0.5
    damped, cells = damp(x.T @ x, RIDGE), Cells(5, np.zeros((3, 3), int))
    found, kept = sparsegpt(w, damped, cells, lambda _, c: mask[:, cells.span(c)])
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(found, published_loop(w, damped.h, 6, mask=mask), rtol=1e-8, atol=1e-9)


# ---- by hand


@pytest.mark.parametrize(
    ("w", "expected"),
    [([3.0, 4.0], [0.0, 5.5]), ([4.0, 3.0], [4.0, 0.0])],
    ids=["what goes on the left moves the right", "what goes on the right moves nothing"],
)
def test_two_columns_by_hand(w, expected):
    """H = [[2, 1], [1, 2]]: the left input has 2 - 1/2 left, the right one 2; half an input is explained by the other.

    Scores: 9 * 1.5 < 16 * 2, so the left goes, and the right gains 3 / 2; 16 * 1.5 > 9 * 2, so the right goes.
    """
    damped = damp([[2.0, 1.0], [1.0, 2.0]], 0.0)
    found, mask = sparsegpt([w], damped, Cells(2, np.array([[1]])))
    np.testing.assert_allclose(found, [expected], rtol=1e-14)
    np.testing.assert_array_equal(mask, np.array([expected]) != 0)


def test_scores_are_of_the_sweep_not_of_obs():
    """3.3^2 * 2 > 3.6^2 * 1.5: what is left of the left input is less, though by OBS both are worth as much."""
    damped = damp([[2.0, 1.0], [1.0, 2.0]], 0.0)
    assert sparsegpt([[3.6, 3.3]], damped, Cells(2, np.array([[1]])))[1].tolist() == [[False, True]]


@given(seed=SEEDS, d=st.integers(1, 12))
def test_the_factor_is_upper_triangular_with_the_inverse_as_its_square(seed, d):
    rng = np.random.default_rng(seed)
    x = with_ridge(rng.standard_normal((2 * d, d)), RIDGE)
    u = inverse_factor(x.T @ x)
    np.testing.assert_array_equal(u, np.triu(u))
    assert (np.diag(u) > 0).all()
    np.testing.assert_allclose(u.T @ u @ (x.T @ x), np.eye(d), atol=1e-10)


# ---- beside re-solving


@given(layer=layers(BENIGN), group=groups)
def test_resolving_its_mask_is_never_worse_than_the_sweep(layer, group):
    w, x = layer
    longer, damped = with_ridge(x, RIDGE), damp(x.T @ x, RIDGE)
    swept, mask = sparsegpt(w, damped, cells_of(Unstructured(0.5), group, *w.shape, block=3))
    solved = pruned(w, x.T @ x, PruneSpec((Unstructured(0.5),), "sparsegpt", group, block=3))
    np.testing.assert_allclose(solved, resolve(w, longer.T @ longer, mask), rtol=1e-8, atol=1e-9)
    assert (loss(longer, solved, w) <= loss(longer, swept, w) * (1 + 1e-9) + 1e-15 * np.square(longer).sum()).all()


@given(layer=layers(BENIGN), zeros=st.integers(0, 8))
def test_a_sweep_that_prunes_the_first_columns_is_exact(layer, zeros):
    """Then every column that is kept is refitted after the last one that goes."""
    w, x = layer
    mask = np.tile(np.arange(w.shape[1]) >= zeros, (len(w), 1))
    damped, cells = damp(x.T @ x, RIDGE), Cells(w.shape[1], np.zeros((1, 1), int))
    swept, _ = sparsegpt(w, damped, cells, lambda *_: mask)
    np.testing.assert_allclose(swept, resolve(w, damped.h, mask), rtol=1e-8, atol=1e-9)
