"""Clusters of equal size: prices make sizes equal, and make the best of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from strategies import SEEDS
from strategies_experts import routing_of

from wncore.experts.balance import balance, even_prices
from wncore.experts.fitting import ClusterSpec

CLOUDS = {
    "uniform": lambda rng, n, r: rng.random((n, r)),
    "normal": lambda rng, n, r: rng.standard_normal((n, r)),
    "heavy": lambda rng, n, r: rng.standard_t(3, (n, r)),
    "blobs": lambda rng, n, r: rng.standard_normal((n, r)) + 8 * (rng.random((n, 1)) ** 3 * 5).astype(int),
}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(("k", "r"), [(2, 1), (5, 2), (16, 3)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_balanced_clusters_have_about_the_same_size(cloud, k, r, dtype):
    points = CLOUDS[cloud](np.random.default_rng(k), 1600, r).astype(dtype)
    spec = ClusterSpec(balanced=True, restarts=2)
    routing = routing_of(np.column_stack([points, np.zeros(1600, dtype)]), k, spec)
    assert routing.experts == k
    assert np.abs(np.bincount(routing.labels) * k / 1600 - 1).max() <= 0.02
    offers = np.array([np.square(points - c[:-1]).sum(axis=1) + c[-1] ** 2 for c in routing.router.centroids])
    mine = offers[routing.labels, np.arange(1600)]
    np.testing.assert_allclose(mine, offers.min(axis=0), rtol=1e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize(("tokens", "k"), [(160, 8), (167, 12), (89, 30), (40, 39)])
@pytest.mark.parametrize("seed", range(3))
def test_tokens_that_cannot_be_shared_out_equally_go_to_different_clusters(tokens, k, seed):
    points = np.random.default_rng(seed).standard_normal((tokens, 2))
    centres, prices = balance(points, points[:k])
    gaps = np.array([np.square(points - centre).sum(axis=1) for centre in centres]).T
    sizes = np.bincount((gaps + prices).argmin(axis=1), minlength=k)
    assert np.abs(sizes - tokens / k).max() <= 1.5


@given(seed=SEEDS, k=st.integers(1, 5), r=st.integers(1, 3))
def test_of_all_clusters_of_these_sizes_prices_find_the_tightest(seed, k, r):
    """Among all ways to deal the tokens out so: the assignment problem, solved by SciPy."""
    rng = np.random.default_rng(seed)
    points, centres = rng.standard_normal((30, r)), rng.standard_normal((k, r))
    gaps = np.array([np.square(points - centre).sum(axis=1) for centre in centres]).T
    labels = (gaps + even_prices(gaps, np.zeros(k))).argmin(axis=1)
    seats = np.repeat(np.arange(k), np.bincount(labels, minlength=k))
    best = gaps[:, seats][linear_sum_assignment(gaps[:, seats])].sum()
    assert gaps[np.arange(30), labels].sum() == pytest.approx(best, rel=1e-9)


@given(seed=SEEDS, k=st.integers(1, 6), tokens=st.integers(1, 40), integers=st.booleans())
def test_prices_are_sound_whatever_the_points(seed, k, tokens, integers):
    """Integers tie: then sizes cannot be equal, and prices must stay finite all the same."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 2, (tokens, 2)).astype(float) if integers else rng.standard_normal((tokens, 2))
    centres, prices = balance(points, points[rng.integers(tokens, size=k)])
    assert np.isfinite(centres).all()
    assert np.isfinite(prices).all()
    assert prices.min() == 0
