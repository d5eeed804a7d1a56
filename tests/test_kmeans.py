"""K-means against scikit-learn, brute force over partitions, and points on which seeds or centroids go wrong."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans, kmeans_plusplus
from strategies import BACKENDS, SEEDS

import wncore
from wncore import clustering
from wncore.clustering import kmeans, seed_centroids
from wncore.errors import InputError

NUMPY, NUMBA = BACKENDS
backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


def blobs(tokens=600, r=3, k=5, apart=20.0, seed=0, dtype="float64"):
    """Points (n, r) about the first k corners of a cube with sides `apart`, and the blob of each."""
    rng = np.random.default_rng(seed)
    corners, labels = (np.arange(k)[:, None] >> np.arange(r)) % 2, rng.integers(k, size=tokens)
    return (apart * corners[labels] + rng.standard_normal((tokens, r))).astype(dtype), labels


def cloud(tokens=500, r=4, seed=0):
    """Points without clusters: k-means ends in many different ways."""
    return np.random.default_rng(seed).standard_normal((tokens, r))


def starting_from(monkeypatch, centroids):
    monkeypatch.setattr(clustering, "seed_centroids", lambda x, k, rng: np.asarray(centroids, np.float64))


def same_partition(a, b):
    """Whether two labellings differ by the names of the clusters alone."""
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def within(x, labels):
    """Sum of squares about the means of the parts."""
    return sum(np.square(x[labels == c] - x[labels == c].mean(axis=0)).sum() for c in np.unique(labels))


class SameDraws:
    """The draws of NumPy's old generator, in the order in which scikit-learn's seeding makes them."""

    def __init__(self, seed):
        self.state = np.random.RandomState(seed)

    def integers(self, n):
        return self.state.choice(n, p=np.full(n, 1 / n))

    def random(self, count):
        return self.state.uniform(size=count)


# ---- against scikit-learn


@given(seed=SEEDS, k=st.integers(1, 12))
@example(seed=324, k=10)
def test_seeds_are_those_of_scikit_learn(seed, k):
    """Up to a tie: of two outliers that are nearest to each other alone, either leaves as much."""
    x = cloud(60, seed=seed)
    found = seed_centroids(x, k, SameDraws(seed))
    expected, _ = kmeans_plusplus(x, k, random_state=np.random.RandomState(seed))
    same = int((found == expected).all(axis=1).argmin()) if (found != expected).any() else k
    np.testing.assert_array_equal(found[:same], expected[:same])
    left = [cdist(x, seeds[: same + 1], "sqeuclidean").min(axis=1).sum() for seeds in (found, expected)]
    assert left[0] == pytest.approx(left[1], rel=1e-12)


@backends
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("iterations", "tolerance"), [(300, 0.1), (300, 1e-2), (300, 1e-4), (300, 0.0), (5, 0.0)])
def test_from_the_same_start_it_ends_where_scikit_learn_does(monkeypatch, backend, seed, iterations, tolerance):
    x = cloud(seed=seed)
    starting_from(monkeypatch, x[:8])
    oracle = KMeans(8, init=x[:8], n_init=1, max_iter=iterations, tol=tolerance, algorithm="lloyd")
    oracle.fit(x)
    found = kmeans(x, 8, backend, restarts=1, iterations=iterations, tolerance=tolerance)
    assert found.iterations == oracle.n_iter_
    np.testing.assert_allclose(found.centroids, oracle.cluster_centers_, rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(found.labels, oracle.labels_)
    assert found.inertia == pytest.approx(oracle.inertia_, rel=1e-12)


@backends
@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_ten_starts_is_as_good_as_theirs(backend, seed):
    x = cloud(400, seed=seed)
    oracle = KMeans(10, init="k-means++", n_init=10, random_state=seed, tol=0.0).fit(x)
    assert kmeans(x, 10, backend, tolerance=0.0).inertia <= 1.01 * oracle.inertia_


# ---- against brute force


def least_inertia(x, k):
    """The least sum of squares over all partitions of a few points into k parts."""
    labellings = (np.array((0, *rest)) for rest in itertools.product(range(k), repeat=len(x) - 1))
    return min(within(x, labels) for labels in labellings)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("tokens", "k"), [(9, 2), (7, 3)])
def test_a_few_points_are_clustered_in_the_best_way_there_is(seed, tokens, k):
    x = cloud(tokens, 2, seed)
    found = kmeans(x, k, NUMPY, restarts=100, tolerance=0.0)
    assert found.inertia == pytest.approx(least_inertia(x, k), rel=1e-12)


@backends
@given(seed=SEEDS, tokens=st.integers(1, 60), k=st.integers(1, 8), integers=st.booleans())
def test_it_ends_at_a_fixed_point(backend, seed, tokens, k, integers):
    """Centroids are the means of the points that are nearest to them; integers tie, and come twice."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, (tokens, 2)).astype(float) if integers else rng.standard_normal((tokens, 2))
    k = min(k, tokens)
    found = kmeans(x, k, backend, seed=seed, restarts=2, tolerance=0.0)
    gaps = np.square(x[:, None] - found.centroids).sum(axis=2)
    np.testing.assert_allclose(gaps[np.arange(tokens), found.labels], gaps.min(axis=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.counts, np.bincount(found.labels, minlength=k))
    assert found.inertia == pytest.approx(within(x, found.labels), rel=1e-9, abs=1e-12)
    assert np.count_nonzero(found.counts) == min(k, len(np.unique(x, axis=0)))


@backends
@given(seed=SEEDS, k=st.integers(1, 8), bad=st.booleans())
def test_another_iteration_never_costs_inertia(backend, seed, k, bad):
    x = cloud(40, 2, seed)
    start = np.repeat(x[:1] + 9, k, axis=0) if bad else x[:k]
    with pytest.MonkeyPatch.context() as patch:
        starting_from(patch, start)
        found = [
            kmeans(x, k, backend, restarts=1, iterations=steps, tolerance=0.0).inertia for steps in (1, 2, 3, 5, 8, 20)
        ]
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(found))


# ---- numbers of clusters


@backends
def test_one_cluster_is_the_mean(backend):
    x = cloud()
    found = kmeans(x, 1, backend)
    np.testing.assert_allclose(found.centroids, x.mean(axis=0)[None], rtol=1e-12)
    assert (found.counts.tolist(), set(found.labels.tolist())) == ([500], {0})
    assert found.inertia == pytest.approx(500 * x.var(axis=0).sum(), rel=1e-12)


@backends
def test_as_many_clusters_as_points_leave_no_inertia(backend):
    x = cloud(30)
    found = kmeans(x, 30, backend)
    assert (sorted(found.labels), found.counts.tolist()) == (list(range(30)), [1] * 30)
    assert found.inertia == pytest.approx(0, abs=1e-20)


@backends
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_more_clusters_than_different_points_leave_some_empty(backend, offset):
    x = np.repeat(cloud(3, 2), 20, axis=0) + offset
    found = kmeans(x, 5, backend)
    assert sorted(found.counts) == [0, 0, 20, 20, 20]
    assert same_partition(found.labels, np.repeat(np.arange(3), 20))
    assert found.inertia == pytest.approx(0, abs=1e-12)
    assert np.isfinite(found.centroids).all()


@backends
@pytest.mark.parametrize("value", [0.0, 0.1, -1e9])
def test_points_that_are_all_the_same(backend, value):
    found = kmeans(np.full((50, 3), value), 4, backend)
    assert sorted(found.counts) == [0, 0, 0, 50]
    assert found.inertia == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_fewer_points_than_clusters_are_refused(k):
    with pytest.raises(InputError, match=f"5 tokens form 1 to 5 clusters; got {k}"):
        kmeans(cloud(5), k, NUMPY)


@pytest.mark.parametrize(("restarts", "iterations"), [(0, 10), (10, 0)])
def test_k_means_has_to_start_and_to_move(restarts, iterations):
    says = f"at least 1 restart and 1 iteration; got {restarts} and {iterations}"
    with pytest.raises(InputError, match=says):
        kmeans(cloud(5), 2, NUMPY, restarts=restarts, iterations=iterations)


# ---- seeds


@backends
def test_a_seed_gives_the_same_bits_and_another_gives_others(backend):
    first, again, other = (kmeans(cloud(), 9, backend, seed=seed, restarts=2) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.centroids, again.centroids)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.inertia, first.iterations) == (again.inertia, again.iterations)
    assert not np.array_equal(first.centroids, other.centroids)


def test_of_several_starts_the_best_is_kept():
    """A start draws nothing from those before, so more of them can only help."""
    inertia = [kmeans(cloud(200), 9, NUMPY, restarts=restarts).inertia for restarts in range(1, 9)]
    assert all(more <= less for less, more in itertools.pairwise(inertia))
    assert inertia[-1] < inertia[0]


@given(seed=SEEDS, integers=st.booleans())
def test_seeds_are_points_and_no_two_the_same_while_there_are_others(seed, integers):
    rng = np.random.default_rng(seed)
    x = rng.integers(-1, 2, (12, 2)).astype(float) if integers else rng.standard_normal((12, 2))
    different = np.unique(x, axis=0)
    for k in (1, len(different), len(x)):
        seeds = seed_centroids(x, k, np.random.default_rng(seed))
        assert {tuple(one) for one in seeds} <= {tuple(one) for one in x}
        assert len(np.unique(seeds, axis=0)) == min(k, len(different))


@pytest.mark.parametrize("seed", range(10))
def test_every_blob_gets_a_seed(seed):
    x, labels = blobs(apart=100.0)
    seeds = seed_centroids(x, 5, np.random.default_rng(seed))
    assert sorted(labels[np.flatnonzero((x == one).all(axis=1))].item() for one in seeds) == [0, 1, 2, 3, 4]


def test_centroids_may_be_seeded_among_a_part_of_the_points(monkeypatch):
    monkeypatch.setattr(clustering, "SEEDING", 50)
    x, labels = blobs()
    assert same_partition(kmeans(x, 5, NUMPY, restarts=3).labels, labels)


# ---- points that are hard on it


@backends
def test_empty_clusters_are_filled(monkeypatch, backend):
    """Far from the origin, where a centroid without points would end."""
    x, labels = blobs()
    x += 1000
    starting_from(monkeypatch, [x[labels == c][0] for c in range(4)] + [[1e6, 1e6, 1e6]])
    assert same_partition(kmeans(x, 5, backend, restarts=1).labels, labels)
    starting_from(monkeypatch, np.full((5, 3), 1e6))  # one cluster gets every point
    found = kmeans(x, 5, backend, restarts=10)
    assert found.counts.min() > 0
    assert found.inertia < 0.5 * x.var(axis=0).sum() * len(x)


@backends
def test_far_outliers_are_clusters_of_their_own(backend):
    x, _ = blobs(k=1, r=3)
    x[7], x[300] = [1e8, 0, 0], [0, -1e8, 0]
    found = kmeans(x, 3, backend)
    assert sorted(found.counts) == [1, 1, len(x) - 2]
    assert found.labels[7] != found.labels[300]


@backends
@pytest.mark.parametrize(("factor", "offset"), [(1e-20, 0), (1e15, 0), (1e150, 0), (1e-150, 0), (1, 1e6), (-3, -40)])
def test_scale_and_offset_do_not_matter(backend, factor, offset):
    x, labels = blobs()
    found = kmeans(factor * x + offset, 5, backend)
    assert same_partition(found.labels, labels)
    assert found.inertia == pytest.approx(within(x, labels) * factor**2, rel=1e-6)


@backends
@given(seed=SEEDS, power=st.integers(-60, 60))
def test_a_power_of_two_changes_no_bit(backend, seed, power):
    x = cloud(50, 2, seed)
    found, scaled = kmeans(x, 6, backend, restarts=2), kmeans(x * 2.0**power, 6, backend, restarts=2)
    np.testing.assert_array_equal(scaled.centroids, found.centroids * 2.0**power)
    np.testing.assert_array_equal(scaled.labels, found.labels)
    assert scaled.iterations == found.iterations


@pytest.mark.parametrize("name", ["numba", "torch"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_backends_differ_by_rounding(name, dtype):
    if name == "torch":
        pytest.importorskip("torch")
    backend = wncore.get_backend(name)
    unit = np.finfo(dtype).eps
    x, labels = blobs(dtype=dtype)
    found, expected = kmeans(x, 5, backend), kmeans(x, 5, NUMPY)
    assert found.centroids.dtype == x.dtype
    assert same_partition(found.labels, labels)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.centroids, expected.centroids, rtol=100 * unit, atol=100 * unit)
    x = cloud().astype(dtype)
    found, expected = kmeans(x, 9, backend), kmeans(x, 9, NUMPY)
    assert found.inertia == pytest.approx(expected.inertia, rel=0.01)
