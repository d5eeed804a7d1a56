"""Routers: the same labels wherever they are asked for, clusters merged or balanced, inputs of any scale."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from strategies import BACKENDS, SEEDS
from strategies_experts import clustered, dump_of, routing_of, same_partition

from wncore.errors import InputError, MemoryBudgetError, NonFiniteError
from wncore.experts.fitting import ClusterSpec, Projection, fit_routing, project_inputs, random_routing
from wncore.experts.router import Router
from wncore.experts.tokens import label_tokens, project_tokens
from wncore.layers.activations import open_layer
from wncore.sums import sum_clusters

NUMPY, NUMBA = BACKENDS
backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


def fitted(layer, backend, k=4, spec=None, holdout=0.1, **reading):
    """Fit a router to a layer of a dump."""
    spec, opened = spec or ClusterSpec(), open_layer(layer, backend, holdout=holdout, **reading)
    projection = project_inputs(opened, sum_clusters(opened), spec)
    return projection, fit_routing(projection, k, spec, backend)


def nearest(points, centroids):
    """The nearest centroid of each point, by loops."""
    gaps = [[float(np.square(point - centroid).sum()) for centroid in centroids] for point in points]
    return np.array([row.index(min(row)) for row in gaps])


# ---- one router, the same labels


@backends
@pytest.mark.parametrize("tokens", [300, 9000])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_tokens_of_the_dump_get_the_labels_of_fitting_to_the_bit(tmp_path, backend, tokens, balanced, dtype):
    """Blobs that run into each other: many tokens lie near a border."""
    x, _ = clustered(tokens, apart=1.0, dtype=dtype)
    layer = dump_of(tmp_path, {"input": x})["l"]
    _, routing = fitted(layer, backend, 7, ClusterSpec(components=3, restarts=2, balanced=balanced))
    assert routing.experts > 1
    np.testing.assert_array_equal(label_tokens(open_layer(layer, backend), routing.router), routing.labels)
    if tokens <= 4096:  # all tokens in one product, as they are projected
        np.testing.assert_array_equal(routing.router.labels(x, backend), routing.labels)


@backends
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ml_dtypes.bfloat16])
def test_the_nearest_centroid_of_the_projection_gets_the_token(tmp_path, backend, dtype):
    x, blobs = clustered(dtype=dtype)
    _, routing = fitted(dump_of(tmp_path, {"input": x})["l"], backend)
    router = routing.router
    wide = [np.asarray(part, np.float64) for part in (x, router.mean, router.components, router.centroids)]
    np.testing.assert_array_equal(routing.labels, nearest((wide[0] - wide[1]) @ wide[2].T, wide[3]))
    assert same_partition(routing.labels, blobs)
    assert {part.dtype for part in (router.mean, router.components, router.centroids)} == {
        np.dtype("float64" if dtype == "float64" else "float32")
    }


@backends
def test_projections_are_those_of_scikit_learn(tmp_path, backend):
    x, _ = clustered(dtype="float64")
    projection, _ = fitted(dump_of(tmp_path, {"input": x})["l"], backend, spec=ClusterSpec(components=3))
    oracle = PCA(3, svd_solver="full").fit(x[:270])  # the last tenth only judges
    np.testing.assert_allclose(np.abs(projection.points), np.abs(oracle.transform(x)), atol=1e-9)
    assert projection.explained == pytest.approx(oracle.explained_variance_ratio_.sum(), rel=1e-9)


@pytest.mark.parametrize(("d", "components", "expected"), [(12, None, 1), (64, None, 2), (100, None, 3), (12, 5, 5)])
def test_the_number_of_components(tmp_path, d, components, expected):
    x, _ = clustered(200, d)
    _, routing = fitted(dump_of(tmp_path, {"input": x})["l"], NUMBA, 2, ClusterSpec(components=components))
    assert routing.router.components.shape == (expected, d)
    assert routing.router.centroids.shape == (2, expected)


def test_more_components_than_inputs_are_refused(tmp_path):
    layer = dump_of(tmp_path, {"input": clustered()[0]})["l"]
    with pytest.raises(InputError, match="270 tokens of 12 inputs have 1 to 12 principal components; got 13"):
        fitted(layer, NUMPY, spec=ClusterSpec(components=13))


@backends
def test_padding_and_skipped_tokens_have_no_label(tmp_path, backend):
    x, blobs = clustered()
    mask = (np.random.default_rng(5).random(300) < 0.9) | (np.arange(300) % 30 < 2)
    dirty = np.where(mask[:, None], x, np.nan)
    layer = dump_of(tmp_path, {"input": dirty, "tokens.mask": mask}, sequence_length=30)["l"]
    kept = mask & (np.arange(300) % 30 >= 2)
    _, routing = fitted(layer, backend, skip_tokens=2, holdout=0)  # else whole sequences, which only one of them has
    assert same_partition(routing.labels, blobs[kept])
    alone = dump_of(tmp_path / "alone", {"input": x[kept]})["l"]
    np.testing.assert_array_equal(routing.labels, fitted(alone, backend, holdout=0)[1].labels)


def test_tokens_held_out_do_not_move_the_router(tmp_path):
    x, _ = clustered()
    first = fitted(dump_of(tmp_path, {"input": x})["l"], NUMPY)[1].router
    x[270:] = 100 * np.random.default_rng(1).standard_normal((30, 12))
    other = fitted(dump_of(tmp_path / "other", {"input": x})["l"], NUMPY)[1].router
    for part in ("mean", "components", "centroids"):
        np.testing.assert_array_equal(getattr(first, part), getattr(other, part))


# ---- scales


@backends
@pytest.mark.parametrize(
    ("dtype", "factor"),
    [
        ("float32", 1e18),
        ("float32", 1e30),
        ("float32", 1e-17),
        ("float64", 1e150),
        ("float64", 1e-150),
        ("float16", 1e3),
        (ml_dtypes.bfloat16, 1e17),
    ],
)
@pytest.mark.parametrize("balanced", [False, True])
def test_inputs_may_have_any_scale(tmp_path, backend, dtype, factor, balanced):
    x, blobs = clustered(dtype="float64")
    layer = dump_of(tmp_path, {"input": (factor * x).astype(dtype)})["l"]
    _, routing = fitted(layer, backend, spec=ClusterSpec(balanced=balanced))
    np.testing.assert_array_equal(label_tokens(open_layer(layer, backend), routing.router), routing.labels)
    if not balanced:
        assert same_partition(routing.labels, blobs)
        assert routing.inertia < 0.05
    assert np.bincount(routing.labels[:270]).min() >= 16


@backends
def test_a_far_offset_does_not_hide_clusters(tmp_path, backend):
    x, blobs = clustered()
    assert same_partition(fitted(dump_of(tmp_path, {"input": x + 1000})["l"], backend)[1].labels, blobs)


@backends
def test_squares_that_overflow_are_an_error(tmp_path, backend):
    layer = dump_of(tmp_path, {"input": 1e160 * clustered(dtype="float64")[0]})["l"]
    with pytest.raises(NonFiniteError, match="l: the squares of its inputs overflow float64; scale the input down"):
        fitted(layer, backend)


@backends
def test_constant_inputs_have_one_expert(tmp_path, backend):
    layer = dump_of(tmp_path, {"input": np.full((100, 6), 0.1, np.float32)})["l"]
    projection, routing = fitted(layer, backend)
    assert (routing.experts, routing.merged) == (1, 3)
    assert not routing.labels.any()
    assert 0 <= routing.inertia <= 1
    assert 0 <= projection.explained <= 1


def test_projections_that_do_not_fit_into_memory_are_refused(tmp_path):
    layer = dump_of(tmp_path, {"input": clustered(5000)[0]})["l"]
    base = Router(np.zeros(12, np.float32), np.ones((11, 12), np.float32), np.zeros((1, 11), np.float32))
    with pytest.raises(MemoryBudgetError, match=r"5000 tokens take 0 MiB of the 0 allowed; give --memory 1MiB"):
        project_tokens(open_layer(layer, NUMPY, memory=2**18), base)
    assert project_tokens(open_layer(layer, NUMPY, memory=2**19), base).shape == (5000, 11)


# ---- merging


def test_a_cluster_that_is_too_small_goes_to_its_neighbours():
    rng = np.random.default_rng(0)
    places, sizes = np.array([0.0, 10.0, 13.0, 50.0]), [100, 90, 6, 4]
    points = (np.repeat(places, sizes) + 0.1 * rng.standard_normal(200))[:, None]
    for least, places, blobs in (
        (4, [0, 10, 13, 50], [0, 1, 2, 3]),
        (8, [0, 10, 13], [0, 1, 2, 2]),
        (11, [0, 10], [0, 1, 1, 1]),
    ):
        routing = routing_of(points, 4, ClusterSpec(least_tokens=least))
        np.testing.assert_allclose(np.sort(routing.router.centroids[:, 0]), places, atol=0.2)
        assert same_partition(routing.labels, np.repeat(blobs, sizes))
        assert routing.merged == 4 - len(places)


@given(seed=SEEDS, k=st.integers(1, 8), least=st.integers(1, 30), tokens=st.integers(8, 60))
def test_every_expert_has_enough_tokens_or_is_alone(seed, k, least, tokens):
    points = np.random.default_rng(seed).standard_normal((tokens, 2)) ** 3
    calibration = max(k, 2 * tokens // 3)
    routing = routing_of(points, k, ClusterSpec(least_tokens=least, restarts=1), calibration)
    sizes = np.bincount(routing.labels[:calibration], minlength=routing.experts)
    assert routing.experts == len(routing.router.centroids) == k - routing.merged
    assert sizes.min() >= least or routing.experts == 1
    np.testing.assert_array_equal(routing.labels, nearest(points, routing.router.centroids))


@given(seed=SEEDS, k=st.integers(2, 8), least=st.integers(2, 12))
def test_the_smallest_is_merged_first_and_no_more_than_needed(seed, k, least):
    points = np.random.default_rng(seed).standard_normal((40, 2))
    kept = list(routing_of(points, k, ClusterSpec(least_tokens=1, restarts=1)).router.centroids)
    while len(kept) > 1:
        sizes = [int((nearest(points, kept) == c).sum()) for c in range(len(kept))]
        if min(sizes) >= least:
            break
        del kept[sizes.index(min(sizes))]
    found = routing_of(points, k, ClusterSpec(least_tokens=least, restarts=1)).router.centroids
    np.testing.assert_array_equal(found, np.array(kept))


def test_no_more_clusters_than_calibration_tokens():
    with pytest.raises(InputError, match="9 tokens form 1 to 9 clusters; got 10"):
        routing_of(np.arange(12.0)[:, None], 10, ClusterSpec(), calibration=9)


# ---- random clusters, the control


def test_random_clusters_differ_by_one_token():
    base = Router(np.zeros(2), np.zeros((2, 2)), np.zeros((1, 2)))
    projection = Projection(np.zeros((100, 2)), 90, base, 1.0)
    routing = random_routing(projection, 7, seed=0)
    for part in (routing.labels[:90], routing.labels[90:]):
        assert np.ptp(np.bincount(part, minlength=7)) <= 1
    assert (routing.router, routing.experts, routing.merged, routing.inertia) == (None, 7, 0, None)
    again, other = (random_routing(projection, 7, seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.labels, routing.labels)
    assert not np.array_equal(other.labels, routing.labels)
    assert not np.array_equal(np.sort(routing.labels[:90]), routing.labels[:90])


# ---- specification


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"components": 0}, "components must be at least 1; got 0"),
        ({"restarts": 0}, "restarts must be at least 1; got 0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"least_tokens": 0}, "least_tokens must be at least 1; got 0"),
    ],
)
def test_what_no_router_can_be_fitted_with(wrong, says):
    with pytest.raises(InputError, match=says):
        ClusterSpec(**wrong)


@backends
@given(seed=SEEDS, k=st.integers(1, 6))
def test_inertia_is_the_share_left_within_clusters(backend, seed, k):
    points = np.random.default_rng(seed).standard_normal((50, 2))
    routing = routing_of(points, k, ClusterSpec(least_tokens=1, restarts=1))
    within = sum(np.square(part - part.mean(axis=0)).sum() for part in (points[routing.labels == c] for c in range(k)))
    assert routing.inertia == pytest.approx(within / np.square(points - points.mean(axis=0)).sum(), rel=1e-2)
