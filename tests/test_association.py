"""R^2 and slope equal SciPy's and NumPy's, the interval SciPy's bootstrap; it covers what it should."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS

from wncore.dumps import open_dump
from wncore.experts.association import association, associations, predictors
from wncore.layers.activations import open_layer
from wncore.reference import NumpyBackend
from wncore.scoring import score_layer


def line(seed, count, noise=1.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(count)
    return 2 - 3 * x + noise * rng.standard_normal(count), x


@given(seed=SEEDS, count=st.integers(3, 60), a=st.integers(-100, 100), b=st.integers(-100, 100))
def test_equals_numpy_and_scipy_in_any_unit(seed, count, a, b):
    y, x = line(seed, count)
    found = association(np.ldexp(y, a), np.ldexp(x, b), seed=0, resamples=10)
    fit = scipy.stats.linregress(x, y)
    np.testing.assert_allclose(found.r_squared, np.corrcoef(x, y)[0, 1] ** 2, rtol=1e-9)
    np.testing.assert_allclose(found.r_squared, fit.rvalue**2, rtol=1e-9)
    np.testing.assert_allclose(found.slope, np.ldexp(fit.slope, a - b), rtol=1e-9)
    assert found.count == count


def test_the_interval_is_that_of_scipys_percentile_bootstrap():
    y, x = line(0, 80, noise=5.0)
    found = association(y, x, seed=1, resamples=20_000, confidence=0.9)
    expected = scipy.stats.bootstrap(
        (y, x),
        lambda y, x: np.corrcoef(x, y)[0, 1] ** 2,
        paired=True,
        vectorized=False,
        method="percentile",
        confidence_level=0.9,
        n_resamples=20_000,
    ).confidence_interval
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.01)  # five errors of a 5 % quantile
    assert found.low < found.r_squared < found.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """R^2 of the population is 9 / (9 + 9); of 300 intervals of 90 %, 270 contain it, give or take 21 (four errors)."""
    found = [association(*line(seed, 200, noise=3.0), seed=seed, resamples=200, confidence=0.9) for seed in range(300)]
    covered = sum(one.low <= 0.5 <= one.high for one in found)
    assert abs(covered - 270) <= 21


def test_a_seed_gives_one_interval_whatever_the_batch(monkeypatch):
    y, x = line(0, 50)
    whole = association(y, x, seed=5)
    assert whole == association(y, x, seed=5)
    assert whole.low != association(y, x, seed=6).low
    monkeypatch.setattr("wncore.experts.association.BATCH", 128)
    np.testing.assert_allclose(association(y, x, seed=5).low, whole.low, rtol=1e-12)


def test_what_is_not_finite_is_left_out():
    y, x = line(0, 50)
    expected = association(y[3:], x[3:], seed=0)
    y[0], x[1], y[2] = np.nan, np.inf, -np.inf
    assert association(y, x, seed=0) == expected


@pytest.mark.parametrize(
    ("y", "x"), [([], []), ([1, 2], [1, 2]), ([0.1] * 5, range(5)), (range(5), [0.1] * 5), ([np.nan] * 5, range(5))]
)
def test_nothing_to_fit_gives_nan(y, x):
    found = association(y, x, seed=0)
    assert np.isnan([found.r_squared, found.slope, found.low, found.high]).all()
    assert found.count == np.isfinite(np.asarray(y, float)).sum()


def test_a_resample_without_variance_explains_nothing():
    """Every third resample of this one misses the only neuron that differs."""
    found = association([0.1] * 9 + [1.0], [0.3] * 9 + [2.0], seed=0)
    np.testing.assert_allclose([found.low, found.r_squared, found.high], [0, 1, 1], atol=1e-12)


def test_each_predictor_is_associated(dump):
    layer = open_dump(dump).layers["a.10.up"]
    dense = score_layer(open_layer(layer, NumpyBackend()), pairs=0)
    gain = 1 + dense.std**2
    found = associations(gain, dense)
    assert list(found) == ["wasserstein", "mean", "variance", "skewness", "excess_kurtosis", "weight_norm"]
    np.testing.assert_allclose([found["variance"].r_squared, found["variance"].slope], 1, rtol=1e-12)
    assert found["skewness"] == association(gain, dense.skewness, seed=0)
    without = score_layer(open_layer(open_dump(dump).layers["a.9.up"], NumpyBackend()), pairs=0)
    assert "weight_norm" not in predictors(without)
