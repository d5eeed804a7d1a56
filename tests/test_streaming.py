"""The streaming distance: histograms are exact and additive, and low <= distance <= high whatever the edges."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from strategies import BACKENDS, FAMILIES, SEEDS, draw_layer, neurons, quadrature_distance

from wncore import streaming
from wncore.errors import ShapeError
from wncore.fast import NumbaBackend
from wncore.histograms import Histogram, choose_edges, coarsen, histogram

backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
BINS = st.sampled_from([1, 2, 3, 8])
VALUES = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)


@st.composite
def edges_for(draw, y, far=False):
    """Edges (1, b + 1): among the tokens, at them, a bit below them, outside, repeated; or also very far away."""
    low, span = y.min(), np.ptp(y) or 1.0
    near = st.floats(-0.5, 1.5).map(lambda share: low + share * span)
    token = st.sampled_from(y.tolist())
    points = near | token | token.map(lambda value: np.nextafter(value, -np.inf))
    if far:
        points |= st.builds(lambda side, size: low + side * size * span, st.sampled_from([-1, 1]), st.floats(1, 1e9))
    edges = np.sort(draw(st.lists(points, min_size=2, max_size=draw(BINS) + 1), label="edges"))
    assume(np.ptp(edges) > 1e-9 * span)
    return edges[None]


def sharp_edges(y):
    """The tokens, the numbers just below them, and where F crosses the Gaussian curve: no bin leaves anything open."""
    crossings = y.mean() + y.std() * ndtri(np.arange(1, len(y)) / len(y))
    return np.concatenate([y, np.nextafter(y, -np.inf), crossings])


def bounds(backend, y, edges):
    """Bounds on the distance of one neuron."""
    state = backend.histogram(backend.asarray(y[:, None], "float64"), edges)
    low, high = backend.distance_bounds(edges, *state)
    return low.item(), high.item()


def assert_certified(low, high, y):
    exact = quadrature_distance(y)
    assert 0 <= low <= exact <= high <= np.sqrt(2)


# ---- histograms


@backends
@given(data=st.data(), y=neurons(offsets=(0.0, 1e3)))
def test_a_histogram_counts_and_sums_token_by_token(backend, data, y):
    edges = data.draw(edges_for(y, far=True))
    counts, sums, powers = backend.histogram(backend.asarray(y[:, None], "float64"), edges)
    edge, bins = edges[0], edges.shape[1] - 1
    expected_counts, expected_sums, expected_powers = np.zeros(bins + 2, int), np.zeros(bins + 2), np.zeros(4)
    sizes = np.zeros(4)  # rounding is relative to the sum of the absolute values
    for value in y:
        place = sum(value > e for e in edge)
        expected_counts[place] += 1
        expected_sums[place] += value - edge[max(place - 1, 0)]
        terms = ((value - edge[(bins + 1) // 2]) / (edge[-1] - edge[0])) ** np.arange(1, 5)
        expected_powers += terms
        sizes += abs(terms)
    np.testing.assert_array_equal(counts[0], expected_counts)
    np.testing.assert_allclose(sums[0], expected_sums, rtol=1e-12)
    assert (abs(powers[0] - expected_powers) <= 1e-14 * len(y) * sizes).all()


@backends
@given(seed=SEEDS, n=st.integers(2, 200), cut=st.floats(0, 1))
def test_histograms_add_up_and_subtract(backend, seed, n, cut):
    y = draw_layer(seed, n, 20)
    at, edges = 1 + int(cut * (n - 2)), choose_edges(y, 16)
    a, b, both = (Histogram(edges, *backend.histogram(part.copy(), edges)) for part in (y[:at], y[at:], y))
    unit = np.ptp(edges, axis=1, keepdims=True) * n
    for part, whole in ((a + b, both), (b, both - a)):
        assert part.tokens == whole.tokens
        np.testing.assert_array_equal(part.counts, whole.counts)
        np.testing.assert_allclose(part.sums / unit, whole.sums / unit, atol=1e-13 * np.abs(both.powers).max())
        np.testing.assert_allclose(part.powers, whole.powers, atol=1e-13 * np.abs(both.powers).max())


@pytest.mark.parametrize("operation", ["__add__", "__sub__"])
def test_histograms_over_different_edges_do_not_add_up(operation):
    first, other = (Histogram(edges, *histogram([[0.5]], edges)) for edges in np.array([[[0.0, 1.0]], [[0.0, 2.0]]]))
    with pytest.raises(ShapeError, match="only over the same edges; give every batch the edges of the first"):
        getattr(first, operation)(other)


@given(seed=SEEDS, n=st.integers(1, 100), bins=st.integers(1, 6), factor=st.integers(1, 5))
def test_coarsening_equals_counting_over_the_coarse_edges(seed, n, bins, factor):
    y = draw_layer(seed, n, 9)
    edges = choose_edges(y, bins * factor)
    counts, sums, coarse = coarsen(*histogram(y, edges)[:2], edges, factor)
    expected_counts, expected_sums, _ = histogram(y, coarse)
    np.testing.assert_array_equal(coarse, edges[:, ::factor])
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-12, atol=1e-13 * n * np.ptp(edges))


# ---- where the edges are


@given(y=neurons(offsets=(0.0, -1e6, 1e6), scales=(1e-30, 1.0, 1e30)), bins=st.integers(1, 100))
def test_edges_rise_and_span_something(y, bins):
    edges = choose_edges(y[:, None], bins)
    assert edges.shape == (1, bins + 1)
    assert np.isfinite(edges).all()
    assert (np.diff(edges) >= 0).all()
    assert (edges[:, 0] < edges[:, -1]).all()


@given(value=VALUES, tokens=st.integers(1, 5), bins=st.integers(2, 100))
def test_a_constant_first_batch_gets_edges_on_both_sides(value, tokens, bins):
    edges = choose_edges(np.full((tokens, 1), value), bins)
    assert np.isfinite(edges).all()
    assert (np.diff(edges) >= 0).all()
    assert edges[0, 0] < value < edges[0, -1]


@given(seed=SEEDS, n=st.integers(1, 50), cut=st.integers(1, 19))
def test_edges_of_a_neuron_do_not_depend_on_its_neighbours(seed, n, cut):
    y = draw_layer(seed, n, 20)
    parts = choose_edges(y[:, :cut], 16), choose_edges(y[:, cut:], 16)
    edges = choose_edges(y, 16)
    off = np.abs(np.vstack(parts) - edges)
    assert (off <= 1e-13 * np.ptp(edges, axis=1, keepdims=True)).all()


# ---- the certificate


@backends
@given(data=st.data(), y=neurons())
def test_bounds_hold_for_any_edges_near_the_tokens(backend, data, y):
    assert_certified(*bounds(backend, y, data.draw(edges_for(y))), y)


@backends
@given(data=st.data(), y=neurons(offsets=(0.0, 1e3)))
def test_bounds_hold_for_edges_far_from_the_tokens(backend, data, y):
    assert_certified(*bounds(backend, y, data.draw(edges_for(y, far=True))), y)


@backends
@given(y=neurons(offsets=(0.0, 1e3, 1e6)), far=st.sampled_from([0.0, 1e2, 1e4, 1e6]))
def test_bounds_hold_where_they_leave_nothing_open(backend, y, far):
    """Sharp edges; and as many again `far` deviations away."""
    assume(y.min() < y.max())
    sharp = sharp_edges(y)
    away = y.mean() + y.std() * far * np.linspace(1, 1.1, len(sharp) + 2) if far else []
    assert_certified(*bounds(backend, y, np.sort(np.concatenate([sharp, away]))[None]), y)


@backends
@given(data=st.data(), y=neurons(), width=st.floats(0.01, 1))
def test_bounds_hold_where_one_bin_is_as_open_as_can_be(backend, data, y, width):
    """Sharp edges but for one bin, in which F lies above and below the curve alike: around a jump, or a level."""
    assume(y.min() < y.max())
    z = (y - y.mean()) / y.std()
    at = data.draw(st.integers(1, len(y) - 1), label="token")
    if data.draw(st.booleans(), label="around a jump"):
        before, there, after = (z < z[at]).mean(), ndtr(z[at]), (z <= z[at]).mean()
        assume(before < there < after)
        share = (after - there) / (after - before)
        window = z[at] - share * width, z[at] + (1 - share) * width
    else:
        middle = ndtri(at / len(y))
        window = middle - width / 2, middle + width / 2
    left, right = y.mean() + y.std() * np.array(window)
    sharp = sharp_edges(y)
    edges = np.sort(np.concatenate([sharp[(sharp < left) | (right < sharp)], [left, right]]))[None]
    assert_certified(*bounds(backend, y, edges), y)


@backends
@given(data=st.data(), y=neurons(most=100, offsets=(0.0, 1e3, 1e6)), bins=BINS | st.just(64))
def test_bounds_hold_when_the_first_batch_misleads(backend, data, y, bins):
    first = data.draw(st.integers(1, len(y)), label="tokens in the first batch")
    drift = data.draw(st.sampled_from([0.0, 1.0, 1e4]), label="drift after the first batch")
    y[first:] += drift
    assert_certified(*bounds(backend, y, choose_edges(y[:first, None], bins)), y)


@pytest.mark.parametrize("bins", [16, 1024])
@backends
@pytest.mark.parametrize("family", FAMILIES)
def test_bounds_hold_for_long_samples(backend, family, bins):
    y = FAMILIES[family](np.random.default_rng(3), 20_000)
    assert_certified(*bounds(backend, y, choose_edges(y[:500, None], bins)), y)


@backends
@given(value=VALUES, n=st.integers(1, 1000), bins=BINS)
def test_a_constant_neuron_gives_zero_twice(backend, value, n, bins):
    y = np.full(n, value)
    assert bounds(backend, y, choose_edges(y[:10, None], bins)) == (0.0, 0.0)


@backends
@given(data=st.data(), value=st.sampled_from([0.0, 0.1, -3e-5, 1000.3]), n=st.integers(1, 1000))
def test_bounds_of_a_constant_neuron_hold_for_any_edges(backend, data, value, n):
    y = np.full(n, value)
    assert_certified(*bounds(backend, y, data.draw(edges_for(y, far=True))), y)


@backends
@given(seed=SEEDS, cuts=st.lists(st.integers(1, 499), min_size=1, max_size=5))
def test_batches_in_any_number_give_the_bounds_of_one(backend, seed, cuts):
    y = draw_layer(seed, 500, 9)
    edges = choose_edges(y[:100], 64)
    first, *others = (Histogram(edges, *backend.histogram(part, edges)) for part in np.split(y, sorted({*cuts})))
    merged = sum(others, first)
    expected = backend.distance_bounds(edges, *backend.histogram(y, edges))
    actual = backend.distance_bounds(edges, merged.counts, merged.sums, merged.powers)
    np.testing.assert_allclose(actual, expected, atol=1e-11)


@backends
@given(seed=SEEDS, exponent=st.integers(-100, 100))
def test_the_unit_changes_no_bit(backend, seed, exponent):
    y = draw_layer(seed, 100, 9)
    edges = choose_edges(y, 16)
    once = backend.distance_bounds(edges, *backend.histogram(y, edges))
    y, edges = np.ldexp(y, exponent), np.ldexp(edges, exponent)
    np.testing.assert_array_equal(backend.distance_bounds(edges, *backend.histogram(y, edges)), once)


@given(data=st.data(), y=neurons())
def test_finer_bins_never_lower_the_lower_bound(data, y):
    fine = data.draw(edges_for(y))
    assume(fine.shape[1] % 2 == 1)
    coarse = fine[:, ::2]
    assume(coarse[0, 0] < coarse[0, -1])
    assert bounds(BACKENDS[0], y, coarse)[0] <= bounds(BACKENDS[0], y, fine)[0] + 1e-11


@pytest.mark.parametrize("family", FAMILIES)
def test_finer_bins_narrow_the_bounds(family):
    y = FAMILIES[family](np.random.default_rng(4), 20_000)
    edges = choose_edges(y[:1000, None], 4096)
    widths = []
    for step in (256, 64, 16, 4, 1):
        low, high = bounds(BACKENDS[1], y, edges[:, ::step])
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("bins", [1024, 2048])
def test_a_gaussian_neuron_is_bounded_to_two_thousandths(bins):
    y = np.random.default_rng(6).standard_normal((262_144, 4))
    edges = choose_edges(y[:4096], bins)
    low, high = streaming.distance_bounds(edges, *NumbaBackend().histogram(y, edges))
    assert (high - low < 2e-3).all()


def test_the_bounds_of_a_histogram_are_those_of_its_arrays():
    y = draw_layer(seed=1, tokens=100, neurons=9)
    edges = choose_edges(y, 16)
    state = histogram(y, edges)
    of_arrays = streaming.distance_bounds(edges, *state)
    np.testing.assert_array_equal(streaming.bounds_of(Histogram(edges, *state)), of_arrays)


# ---- the fast form


@given(seed=SEEDS, n=st.integers(2, 200), bins=st.integers(1, 100), first=st.integers(1, 50))
def test_the_fast_form_equals_the_definition(seed, n, bins, first):
    y = draw_layer(seed, n, 20)
    edges = choose_edges(y[:first], bins)
    state = histogram(y, edges)
    fast = NumbaBackend(threads=1)
    np.testing.assert_array_equal(fast.histogram(y, edges)[0], state[0])
    expected = streaming.distance_bounds(edges, *state)
    np.testing.assert_allclose(fast.distance_bounds(edges, *state), expected, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("layout", [np.asfortranarray, lambda y: np.repeat(y, 2, axis=0)[::2]])
def test_threads_tiles_and_layout_change_no_bit(threads, layout):
    y = draw_layer(seed=0, tokens=2_000, neurons=50)
    edges = choose_edges(y[:200], 64)

    def answers(fast, y, edges):
        state = fast.histogram(fast.asarray(y, "float64"), edges)
        return [*state, *fast.distance_bounds(edges, *state)]

    expected = answers(NumbaBackend(threads=2), y, edges)
    other = NumbaBackend(threads=threads)
    tiles = [answers(other, layout(y[:, cut]), edges[cut]) for cut in (slice(0, 7), slice(7, 40), slice(40, 50))]
    for whole, *parts in zip(expected, *tiles, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), whole)
