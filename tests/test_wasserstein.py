"""The exact distance equals numerical integration; and it has the invariants of a distance between shapes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.special import ndtri
from strategies import BACKENDS, FAMILIES, SEEDS, draw_layer, neurons, quadrature_distance, sorted_standardised

from wncore.errors import ShapeError
from wncore.fast import NumbaBackend
from wncore.wasserstein import gaussian_distance, sampled_distance, two_sample_distance

backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
families = pytest.mark.parametrize("family", FAMILIES)


def distances(backend, y, dtype="float64"):
    return backend.gaussian_distance(backend.asarray(y, dtype))


def distance(backend, y):
    return distances(backend, np.asarray(y)[:, None]).item()


# ---- what it is


@backends
@given(y=neurons(offsets=(0.0, 1.0, -1e6, 1e6), scales=(1e-300, 1e-150, -1.0, 1.0, 1e150, 1e300)))
def test_equals_quadrature(backend, y):
    assert abs(distance(backend, y) - quadrature_distance(y)) <= 1e-13


@backends
@given(y=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20))
def test_equals_quadrature_for_any_floats(backend, y):
    assert abs(distance(backend, y) - quadrature_distance(y)) <= 1e-13


@backends
@families
@pytest.mark.parametrize("n", [2, 3, 1_000, 30_000])
@pytest.mark.parametrize("offset", [0, 1e6])
def test_equals_quadrature_for_long_samples(backend, family, n, offset):
    y = FAMILIES[family](np.random.default_rng(n), n) + offset
    assert abs(distance(backend, y) - quadrature_distance(y)) <= 1e-12


@backends
@pytest.mark.parametrize("family", ["gaussian", "cauchy"])
def test_equals_quadrature_for_a_million_tokens(backend, family):
    y = FAMILIES[family](np.random.default_rng(0), 10**6)
    assert abs(distance(backend, y) - quadrature_distance(y)) <= 2e-11


@backends
@given(a=st.floats(-1e300, 1e300), b=st.floats(-1e300, 1e300))
def test_two_points_are_one_shape(backend, a, b):
    assume(a != b)
    assert abs(distance(backend, [a, b]) - 0.5353773215478799) <= 4e-16


@backends
@pytest.mark.parametrize("shape", [stats.uniform, stats.laplace, stats.expon, stats.norm], ids=lambda d: d.name)
def test_evenly_spaced_quantiles_converge_to_the_distance_of_the_distribution(backend, shape):
    mean, deviation = shape.mean(), shape.std()

    def gap(t):
        return abs(shape.cdf(mean + deviation * t) - stats.norm.cdf(t))

    joints = np.linspace(-6, 6, 49)
    limit = sum(quad(gap, a, b, epsabs=1e-10)[0] for a, b in pairwise(joints))
    limit += quad(gap, -40, -6)[0] + quad(gap, 6, 40)[0]
    errors = [abs(distance(backend, shape.ppf((np.arange(n) + 0.5) / n)) - limit) for n in (1_000, 100_000)]
    assert errors[0] <= 1e-2
    assert errors[1] <= 2e-4


@backends
@families
def test_is_the_limit_of_scipys_two_sample_distance(backend, family):
    y = FAMILIES[family](np.random.default_rng(5), 500)
    gaussian = ndtri((np.arange(10**6) + 0.5) / 10**6)
    limit = stats.wasserstein_distance((y - y.mean()) / y.std(), gaussian)
    assert abs(distance(backend, y) - limit) <= 3e-6


# ---- what it does not depend on


@backends
@given(
    y=st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=40),
    a=st.sampled_from([-1e9, -3.0, -0.5, 2.0**-40, 7.0]),
    c=st.integers(-(2**20), 2**20),
)
def test_affine_maps_change_nothing(backend, y, a, c):
    mapped = a * (np.array(y) + c)
    assert abs(distance(backend, mapped) - distance(backend, y)) <= 1e-13


@backends
@given(y=neurons(), seed=SEEDS)
def test_the_order_of_tokens_changes_no_bit(backend, y, seed):
    assert distance(backend, np.random.default_rng(seed).permutation(y)) == distance(backend, y)


@backends
@given(y=neurons(), copies=st.integers(2, 5))
def test_repeating_every_token_changes_nothing(backend, y, copies):
    assert abs(distance(backend, np.tile(y, copies)) - distance(backend, y)) <= 1e-13


@backends
@given(y=neurons(most=400))
def test_lies_between_zero_and_root_two(backend, y):
    assert 0 <= distance(backend, y) <= np.sqrt(2)


@backends
@given(value=st.floats(allow_nan=False, allow_infinity=False), n=st.integers(1, 300))
def test_a_constant_neuron_gives_exactly_zero(backend, value, n):
    assert distance(backend, np.full(n, value)) == 0.0


@backends
@given(seed=SEEDS, n=st.integers(1, 300), cut=st.integers(1, 36))
def test_splitting_over_neurons_changes_no_bit(backend, seed, n, cut):
    y = draw_layer(seed, n, 37)
    parts = [distances(backend, y[:, :cut]), distances(backend, y[:, cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), distances(backend, y))


@given(seed=SEEDS, n=st.integers(1, 300))
def test_memory_layout_changes_no_bit(seed, n):
    backend, y = NumbaBackend(threads=2), draw_layer(seed, n, 20)
    strided = np.zeros((2 * n, 60))[::-2, ::3]
    strided[:] = y
    for same in (np.asfortranarray(y), strided):
        np.testing.assert_array_equal(distances(backend, same), distances(backend, y))


@backends
@given(seed=SEEDS, n=st.integers(1, 300))
def test_float32_outputs_are_widened_first(backend, seed, n):
    y = draw_layer(seed, n, 20).astype(np.float32)
    widened = distances(backend, y.astype(np.float64))
    np.testing.assert_array_equal(distances(backend, y, "float32"), widened)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_no_bit(threads):
    y = draw_layer(seed=0, tokens=2_000, neurons=50)
    other = NumbaBackend(threads=threads).gaussian_distance(y)
    np.testing.assert_array_equal(other, NumbaBackend(threads=2).gaussian_distance(y))


@backends
def test_outputs_are_left_as_they_were(backend):
    y = draw_layer(seed=1, tokens=100, neurons=20)
    before = y.copy()
    distances(backend, y)
    np.testing.assert_array_equal(y, before)


# ---- two samples


@given(seed=SEEDS, n=st.integers(2, 200), m=st.integers(1, 9))
def test_two_samples_equal_scipy(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b = draw_layer(rng.integers(2**32), n, m), draw_layer(rng.integers(2**32), n, m)
    expected = [stats.wasserstein_distance(*columns) for columns in zip(a.T, b.T, strict=True)]
    np.testing.assert_allclose(two_sample_distance(a, b), expected, rtol=1e-12)


@given(seed=SEEDS, y=neurons())
def test_the_sampled_estimator_is_scipys_on_one_seeded_sample(seed, y):
    assume(y.min() < y.max())
    sample = np.random.default_rng(seed).standard_normal(len(y))
    expected = stats.wasserstein_distance(sorted_standardised(y), sample)
    assert abs(sampled_distance(y[:, None], seed).item() - expected) <= 1e-13


def test_the_sampled_estimator_repeats_with_its_seed_only():
    y = draw_layer(seed=2, tokens=500, neurons=5)
    np.testing.assert_array_equal(sampled_distance(y, 7), sampled_distance(y, 7))
    assert (sampled_distance(y, 7) != sampled_distance(y, 8)).all()


def test_the_sampled_estimator_gives_zero_for_a_constant_neuron():
    assert sampled_distance(np.full((10, 1), 0.1)).item() == 0.0


# ---- what it refuses


@pytest.mark.parametrize("shape", [(3,), (0, 2), (2, 2, 2)])
def test_outputs_must_be_a_matrix_with_a_token(shape):
    with pytest.raises(ShapeError, match=r"\(tokens, neurons\).*got shape \(" + str(shape[0])):
        gaussian_distance(np.zeros(shape))


def test_two_samples_must_have_one_shape():
    with pytest.raises(ShapeError, match=r"one shape; got \(2, 1\) and \(3, 1\)"):
        two_sample_distance(np.zeros((2, 1)), np.zeros((3, 1)))
