"""Mean, deviation, skewness and excess kurtosis from power sums equal NumPy's and SciPy's from the tokens."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from strategies import BACKENDS, FAMILIES, SEEDS, draw_layer

from wncore.histograms import choose_edges
from wncore.moments import moments_of

backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


def moments(backend, y, edges):
    counts, _, powers = backend.histogram(backend.asarray(y, "float64"), edges)
    return moments_of(edges, counts.sum(axis=1), powers)


@backends
@pytest.mark.parametrize("scale", [-(2.0**-100), 1.0, 2.0**100])
@pytest.mark.parametrize("offset", [0, 1_000, -1_000_000])
@given(seed=SEEDS, family=st.sampled_from(list(FAMILIES)), n=st.integers(2, 300))
def test_equal_numpy_and_scipy_at_any_scale_and_offset(backend, scale, offset, seed, family, n):
    y = np.round(FAMILIES[family](np.random.default_rng(seed), n) * 2**20) / 2**20  # exact with any of the offsets
    assume(y.min() < y.max())
    moved = scale * (y + offset)[:, None]
    found = moments(backend, moved, choose_edges(moved, 16))
    mean, deviation = y.mean(), y.std()
    np.testing.assert_allclose(found.mean / scale, mean + offset, rtol=1e-15, atol=1e-13 * deviation)
    np.testing.assert_allclose(found.std / abs(scale), deviation, rtol=1e-13)
    np.testing.assert_allclose(found.skewness * np.sign(scale), stats.skew(y), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.excess_kurtosis + 3, stats.kurtosis(y, fisher=False), rtol=1e-12)


@backends
def test_a_gaussian_neuron_has_no_skewness_and_no_excess_kurtosis(backend):
    y = np.random.default_rng(0).standard_normal((100_000, 5))
    found = moments(backend, y, choose_edges(y[:1000], 16))
    sampling = 4 / np.sqrt(len(y))
    assert (np.abs(found.skewness) < sampling * np.sqrt(6)).all()
    assert (np.abs(found.excess_kurtosis) < sampling * np.sqrt(24)).all()


@backends
@given(
    value=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
    n=st.integers(1, 1000),
    first=st.integers(1, 1000),
)
def test_a_constant_neuron_has_a_mean_but_no_deviation_and_no_shape(backend, value, n, first):
    y = np.full((n, 1), value)
    found = moments(backend, y, choose_edges(y[:first], 16))
    np.testing.assert_allclose(found.mean, value, rtol=1e-12)
    assert found.std.item() == 0.0
    assert np.isnan([found.skewness, found.excess_kurtosis]).all()


@backends
def test_a_constant_neuron_beside_others_stays_its_own_affair(backend):
    y = draw_layer(seed=0, tokens=100, neurons=5)
    y[:, 2] = 0.0
    found = moments(backend, y, choose_edges(y, 16))
    np.testing.assert_array_equal(found.std > 0, [True, True, False, True, True])
    np.testing.assert_array_equal(np.isnan(found.skewness), [False, False, True, False, False])
