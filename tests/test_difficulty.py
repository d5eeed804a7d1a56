"""Mapping difficulty equals a loop over pairs; and it has no unit and no origin."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import BACKENDS, SEEDS, draw_layer

from wncore.difficulty import draw_pairs
from wncore.errors import InputError
from wncore.fast import NumbaBackend

backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


@st.composite
def layers(draw, most=40):
    """Inputs (n, d), outputs (n, m) and disjoint pairs with two inputs each: x, y, left, right."""
    seed, n = draw(SEEDS, label="seed"), draw(st.integers(4, most), label="tokens")
    d, m = draw(st.integers(1, 5), label="inputs"), draw(st.integers(1, 20), label="neurons")
    x = np.random.default_rng(seed).standard_normal((n, d))
    pairs = draw_pairs(n, draw(st.integers(2, n // 2), label="pairs"), seed)
    return x, draw_layer(seed, n, m), pairs.left, pairs.right


def difficulty(backend, x, y, left, right):
    return backend.mapping_difficulty(backend.asarray(x, "float64"), backend.asarray(y, "float64"), left, right)


def difficulty_by_loops(x, column, left, right):
    dx = [math.dist(x[i], x[j]) for i, j in zip(left, right, strict=True)]
    dy = [abs(column[i] - column[j]) for i, j in zip(left, right, strict=True)]
    median = statistics.median(dy)
    if median == 0:
        return 0.0
    return statistics.fmean((b / median) / (a / max(dx)) for a, b in zip(dx, dy, strict=True))


# ---- what it is


@backends
@given(layer=layers())
def test_equals_a_loop_over_pairs(backend, layer):
    x, y, left, right = layer
    expected = [difficulty_by_loops(x.tolist(), column, left, right) for column in y.T.tolist()]
    np.testing.assert_allclose(difficulty(backend, *layer), expected, rtol=1e-12)


@backends
@pytest.mark.parametrize(
    ("outputs", "expected"),
    [([1.0, 2.0, 4.0], (1 / 2 + 1 + 2) / 3), ([1.0, 2.0, 4.0, 8.0], (1 / 3 + 2 / 3 + 4 / 3 + 8 / 3) / 4)],
    ids=["odd", "even"],
)
def test_the_median_of_odd_and_of_even_numbers_of_pairs(backend, outputs, expected):
    p = len(outputs)
    x, y = np.repeat([[0.0], [1.0]], p, axis=0), np.append(np.zeros(p), outputs)[:, None]
    found = difficulty(backend, x, y, np.arange(p), p + np.arange(p))
    np.testing.assert_allclose(found, expected, rtol=1e-15)


@backends
@given(layer=layers())
def test_is_undefined_or_at_least_one_half(backend, layer):
    found = difficulty(backend, *layer)
    assert ((found == 0) | (found >= 0.5 * (1 - 1e-15))).all()


@backends
@given(n=st.integers(4, 40), seed=SEEDS)
def test_a_linear_map_of_one_input_keeps_every_ratio(backend, n, seed):
    """With |dy| = |dx| the difficulty is max |dx| / median |dx|."""
    x = np.random.default_rng(seed).standard_normal((n, 1))
    pairs = draw_pairs(n, n, seed)
    dx = np.abs(x[pairs.left] - x[pairs.right])
    found = difficulty(backend, x, 3 * x, pairs.left, pairs.right)
    np.testing.assert_allclose(found, dx.max() / np.median(dx), rtol=1e-12)


# ---- what it does not depend on


@backends
@given(layer=layers(), a=st.integers(-100, 100), b=st.integers(-100, 100))
def test_the_units_of_inputs_and_outputs_change_no_bit(backend, layer, a, b):
    x, y, left, right = layer
    expected = difficulty(backend, x, y, left, right)
    np.testing.assert_array_equal(difficulty(backend, np.ldexp(x, a), -np.ldexp(y, b), left, right), expected)


@backends
@given(seed=SEEDS, n=st.integers(4, 40), a=st.integers(-1000, 1000), b=st.integers(-1000, 1000))
def test_translations_change_no_bit(backend, seed, n, a, b):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-100, 100, (n, 3)) + np.arange(n)[:, None] / 1024, rng.integers(-100, 100, (n, 4))
    pairs = draw_pairs(n, n, seed)
    expected = difficulty(backend, x, y.astype(float), pairs.left, pairs.right)
    np.testing.assert_array_equal(difficulty(backend, x + a, y + float(b), pairs.left, pairs.right), expected)


@backends
@given(layer=layers(), seed=SEEDS)
def test_the_order_and_direction_of_pairs_do_not_matter(backend, layer, seed):
    x, y, left, right = layer
    order = np.random.default_rng(seed).permutation(len(left))
    turned = difficulty(backend, x, y, right[order], left[order])
    np.testing.assert_allclose(turned, difficulty(backend, x, y, left, right), rtol=1e-13)


@given(layer=layers(), cut=st.integers(0, 20))
def test_threads_tiles_and_layout_change_no_bit(layer, cut):
    x, y, left, right = layer
    expected = NumbaBackend(threads=2).mapping_difficulty(x, y, left, right)
    tiles = [
        difficulty(NumbaBackend(threads=threads), np.asfortranarray(x), tile, left, right)
        for threads, tile in ((1, y[:, :cut]), (3, y[:, cut:]))
    ]
    np.testing.assert_array_equal(np.concatenate(tiles), expected)


@backends
@given(layer=layers())
def test_float32_layers_are_widened_first(backend, layer):
    x, y, left, right = layer
    x, y = x.astype(np.float32), y.astype(np.float32)
    widened = difficulty(backend, x, y, left, right)
    np.testing.assert_allclose(backend.mapping_difficulty(x, y, left, right), widened, rtol=1e-13)


# ---- guards


@backends
@pytest.mark.parametrize("pairs", [0, 1])
def test_fewer_than_two_pairs_give_zero(backend, pairs):
    x, y = np.arange(4.0)[:, None], np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(difficulty(backend, x, y, np.arange(pairs), 2 + np.arange(pairs)), [0.0, 0.0])


@backends
def test_a_median_of_zero_gives_zero(backend):
    x, y = np.arange(6.0)[:, None] ** 2, np.array([[0.0], [0.0], [0.0], [0.0], [0.0], [9.0]])
    assert difficulty(backend, x, y, np.array([0, 1, 2]), np.array([3, 4, 5])).item() == 0.0


# ---- pairs


@given(tokens=st.integers(0, 200), pairs=st.integers(0, 200), seed=SEEDS)
def test_pairs_are_disjoint_seeded_and_at_most_half_the_tokens(tokens, pairs, seed):
    drawn, again = draw_pairs(tokens, pairs, seed), draw_pairs(tokens, pairs, seed)
    members = np.concatenate([drawn.left, drawn.right])
    assert len(drawn.left) == len(drawn.right) == min(pairs, tokens // 2)
    assert len(np.unique(members)) == len(members)
    assert ((members >= 0) & (members < tokens)).all()
    assert drawn.dropped == 0
    np.testing.assert_array_equal(members, np.concatenate([again.left, again.right]))


def test_every_token_is_drawn_equally_often():
    drawn = [draw_pairs(10, 2, seed) for seed in range(2_000)]
    times = np.bincount(np.concatenate([[*pairs.left, *pairs.right] for pairs in drawn]))
    assert (np.abs(times - 800) < 4 * np.sqrt(800 * 0.6)).all()


def test_another_seed_draws_other_pairs():
    assert not np.array_equal(draw_pairs(1000, 100, seed=0).left, draw_pairs(1000, 100, seed=1).left)


def test_a_negative_number_of_pairs_is_refused():
    with pytest.raises(InputError, match="cannot be negative; got -1"):
        draw_pairs(10, -1, seed=0)
