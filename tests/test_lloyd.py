"""A step of Lloyd's algorithm equals loops over tokens, and steps in a row equal scikit-learn's k-means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from strategies import BACKENDS, SEEDS

from wncore import clustering
from wncore.fast import NumbaBackend
from wncore.fast.clusters import TOKENS

backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
NUMBERS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "integers": lambda rng, shape: rng.integers(-3, 4, shape).astype(float),
}


@st.composite
def clouds(draw, numbers="normal"):
    """Points (n, r) and centroids (k, r); with integers, products are exact and many distances tie."""
    rng = np.random.default_rng(draw(SEEDS, label="seed"))
    n, r, k = (
        draw(st.integers(least, most), label=name) for name, least, most in (("n", 0, 40), ("r", 1, 5), ("k", 1, 6))
    )
    return NUMBERS[numbers](rng, (n, r)), NUMBERS[numbers](rng, (k, r))


def by_loops(x, centroids):
    labels, sums = np.zeros(len(x), int), np.zeros(centroids.shape)
    counts, inertia = np.zeros(len(centroids), int), np.zeros(len(centroids))
    for t, point in enumerate(x):
        gaps = [sum((a - b) ** 2 for a, b in zip(point, centroid, strict=True)) for centroid in centroids]
        c = labels[t] = gaps.index(min(gaps))
        sums[c] += point
        counts[c] += 1
        inertia[c] += gaps[c]
    return labels, sums, counts, inertia


def step_of(backend):
    """The step of one start, (n, r), (k, r) -> (n,), (k, r), (k,), (k,)."""
    return lambda x, centroids: tuple(part[0] for part in backend.lloyd(x, centroids[None]))


def lloyd(x, centroids):
    return step_of(clustering)(x, centroids)


def means(x, centroids, step=lloyd):
    """The centroids after one step; that of an empty cluster stays."""
    _, sums, counts, _ = step(x, centroids)
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)


@backends
@given(cloud=clouds(numbers="integers"))
def test_equals_loops_over_tokens_and_ties_go_to_the_lowest(backend, cloud):
    for found, expected in zip(step_of(backend)(*cloud), by_loops(*cloud), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


@given(cloud=clouds())
def test_equals_loops_over_tokens(cloud):
    for found, expected in zip(lloyd(*cloud), by_loops(*cloud), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@backends
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_steps_in_a_row_are_the_k_means_of_scikit_learn(backend, dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((6000, 9)) + 2 * rng.standard_normal((7, 9))[rng.integers(7, size=6000)]).astype(dtype)
    steps, centroids = 6, x[:7]
    oracle = KMeans(7, init=centroids, n_init=1, max_iter=steps, tol=0.0, algorithm="lloyd").fit(x)
    assert oracle.n_iter_ == steps
    for _ in range(steps):
        centroids = means(x, centroids, step_of(backend)).astype(dtype)
    labels, _, _, inertia = step_of(backend)(x, centroids)
    np.testing.assert_allclose(centroids, oracle.cluster_centers_, atol=1e-12 if dtype == "float64" else 1e-3)
    np.testing.assert_allclose(inertia.sum(), oracle.inertia_, rtol=1e-12 if dtype == "float64" else 1e-5)
    assert np.mean(labels != oracle.labels_) <= (0 if dtype == "float64" else 1e-3)


@backends
@given(cloud=clouds(numbers="integers"), starts=st.integers(1, 4), seed=SEEDS)
def test_every_start_takes_its_own_step(backend, cloud, starts, seed):
    x, centroids = cloud
    drawn = np.random.default_rng(seed).integers(-3, 4, (starts, *centroids.shape)).astype(float)
    for start, *found in zip(drawn, *backend.lloyd(x, drawn), strict=True):
        for one, expected in zip(found, by_loops(x, start), strict=True):
            np.testing.assert_array_equal(one, expected)


@backends
@given(cloud=clouds(), seed=SEEDS)
def test_the_order_of_the_tokens_does_not_matter(backend, cloud, seed):
    x, centroids = cloud
    order = np.random.default_rng(seed).permutation(len(x))
    (labels, *totals), (turned, *others) = step_of(backend)(x, centroids), step_of(backend)(x[order], centroids)
    np.testing.assert_array_equal(turned, labels[order])
    for found, expected in zip(others, totals, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@backends
@given(cloud=clouds(), seed=SEEDS)
def test_permuting_the_centroids_permutes_the_answer(backend, cloud, seed):
    x, centroids = cloud
    order = np.random.default_rng(seed).permutation(len(centroids))
    (labels, *totals), (turned, *others) = step_of(backend)(x, centroids), step_of(backend)(x, centroids[order])
    np.testing.assert_array_equal(order[turned], labels)
    for found, expected in zip(others, totals, strict=True):
        np.testing.assert_array_equal(found, expected[order])


@backends
@given(cloud=clouds(), shift=st.sampled_from([-1e6, 3.0, 1e4]))
def test_the_origin_does_not_matter(backend, cloud, shift):
    x, centroids = (part + shift for part in cloud)
    (labels, sums, counts, inertia), (_, _, same, others) = (
        step_of(backend)(x, centroids),
        lloyd(x - shift, centroids - shift),
    )
    np.testing.assert_array_equal(counts, same)
    np.testing.assert_allclose(inertia, others, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sums, [x[labels == c].sum(axis=0) for c in range(len(counts))], rtol=1e-14, atol=1e-9)


@backends
@given(cloud=clouds() | clouds(numbers="integers"))
def test_the_inertia_never_rises(backend, cloud):
    x, centroids = cloud
    before = np.inf
    for _ in range(8):
        inertia = step_of(backend)(x, centroids)[3].sum()
        assert inertia <= before * (1 + 1e-12)
        before, centroids = inertia, means(x, centroids, step_of(backend))


@backends
@given(cloud=clouds())
def test_squares_about_a_centroid_are_those_about_the_mean_and_its_distance(backend, cloud):
    """The theorem of parallel axes, cluster by cluster: it holds inertia, sums and counts together."""
    x, centroids = cloud
    labels, sums, counts, inertia = step_of(backend)(x, centroids)
    mean = sums / np.maximum(counts, 1)[:, None]
    about = np.array([np.square(x[labels == c] - mean[c]).sum() for c in range(len(mean))])
    np.testing.assert_allclose(
        inertia, about + counts * np.square(mean - centroids).sum(axis=1), rtol=1e-11, atol=1e-12
    )


@backends
@given(cloud=clouds(numbers="integers"), cut=st.integers(0, 40))
def test_batches_add_up_and_their_labels_follow_each_other(backend, cloud, cut):
    x, centroids = cloud
    whole, *parts = (step_of(backend)(part, centroids) for part in (x, x[:cut], x[cut:]))
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole[0])
    for first, second, both in zip(*(part[1:] for part in parts), whole[1:], strict=True):
        np.testing.assert_array_equal(first + second, both)


@backends
def test_an_empty_cluster_gives_zeros_and_one_cluster_takes_all(backend):
    x = np.array([[1.0, 2.0], [3.0, 5.0]])
    labels, sums, counts, inertia = step_of(backend)(x, np.array([[9.0, 9.0], [1.0, 2.0], [1e3, 0.0]]))
    assert (labels.tolist(), counts.tolist(), inertia.tolist()) == ([1, 1], [0, 2, 0], [0.0, 13.0, 0.0])
    assert sums.tolist() == [[0.0, 0.0], [4.0, 7.0], [0.0, 0.0]]
    labels, sums, counts, _ = step_of(backend)(x, x[:1])
    assert (labels.tolist(), sums.tolist(), counts.tolist()) == ([0, 0], [[4.0, 7.0]], [2])


@backends
def test_sums_are_float64_whatever_the_dtype(backend):
    """0.1 added up 70,001 times in float32 is 7004.6."""
    x = np.full((70_001, 1), 0.1, np.float32)
    _, sums, _, inertia = step_of(backend)(x, np.zeros((1, 1), np.float32))
    value = float(x[0, 0])
    np.testing.assert_allclose([sums.item(), inertia.item()], [70_001 * value, 70_001 * value**2], rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(1, 3), (TOKENS + 1, 18), (5 * TOKENS + 77, 128)])
def test_the_number_of_threads_changes_no_bit(shape, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    centroids = rng.standard_normal((3, 16, shape[1])).astype(dtype)
    for found, expected in zip(*(NumbaBackend(threads).lloyd(x, centroids) for threads in (1, 2)), strict=True):
        np.testing.assert_array_equal(found, expected)
