"""Expanded layers: one expert is plain pruning to the bit, and what is reported is what happens to the tokens."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import BACKENDS, SEEDS
from strategies_experts import clustered, dump_of, expanded, expanded_one, losses, weights

from wncore.experts.fitting import ClusterSpec
from wncore.experts.losses import expert_errors, relative_improvement
from wncore.experts.pruned import prune_experts
from wncore.layer_pruning import prune_layer
from wncore.layers.activations import open_layer
from wncore.pruning.least_squares import resolve
from wncore.pruning.methods import METHODS, PruneSpec, prune
from wncore.pruning.patterns import Unstructured, parse_pattern
from wncore.sums import ClusterSums, sum_clusters

NUMPY, NUMBA = BACKENDS
backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
DTYPES = ["float64", "float32", "float16", ml_dtypes.bfloat16]
SHARES = tuple(i / 10 for i in range(8))


@pytest.fixture
def layer(tmp_path):
    return dump_of(tmp_path, {"input": clustered()[0], "weight": weights()})["l"]


# ---- one expert


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", [Unstructured(0.7), Unstructured(SHARES), parse_pattern("2:4")], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@backends
def test_one_expert_is_plain_pruning_to_the_bit(tmp_path, backend, method, pattern, dtype):
    x, w = clustered(200)[0].astype(dtype), weights(dtype=dtype)
    (layer,) = dump_of(tmp_path, {"input": x, "weight": w}).values()
    spec = {"method": method, "group": "row"} if pattern == Unstructured(SHARES) else {"method": method}
    (plain,) = prune_layer(open_layer(layer, backend), PruneSpec((pattern,), **spec), wasserstein=False)
    sums = sum_clusters(open_layer(layer, backend))
    opened = open_layer(layer, backend)
    pruned = prune_experts(opened, layer.weight.read(), sums, PruneSpec((pattern,), **spec), prior=0.25)
    (one,) = pruned.weights
    assert one.dtype == plain.weight.dtype
    assert one[0].tobytes() == plain.weight.tobytes()
    damping = (pruned.ridge, pruned.zeros_ridge, pruned.raised)
    assert [one.tolist() for (one,) in damping] == [[plain.ridge], [plain.zeros_ridge], [plain.raised]]
    errors = expert_errors(one, w, sums, backend)
    assert (errors.relative_error, errors.relative_error_holdout) == (
        plain.relative_error,
        plain.relative_error_holdout,
    )
    np.testing.assert_array_equal(errors.neuron_error, plain.neuron_error)
    np.testing.assert_array_equal(errors.neuron_error_holdout, plain.neuron_error_holdout)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"holdout": 0},
        {"holdout": 0.3, "skip_tokens": 3},
        {"ridge": 0.0},
        {"ridge": 0.3, "prior": 7.0},
        {"prune": {"method": "sparsegpt", "damping": "published", "resolve": False}},
        {"prune": {"method": "sparsegpt", "bits": 4, "resolve": False}},
        {"memory": 2**20},
        {"clusters": ClusterSpec(balanced=True, components=3)},
    ],
    ids=str,
)
def test_a_run_with_one_expert_is_plain_pruning_whatever_the_settings(tmp_path, settings):
    mask = np.random.default_rng(2).random(300) < 0.9
    x = clustered()[0]
    x[:, 5] = 0  # one dead input
    tensors = {"input": x, "weight": weights(), "tokens.mask": mask}
    (layer,) = dump_of(tmp_path, tensors, sequence_length=30).values()
    run = expanded_one(layer, NUMBA, 1, "0.6", **settings)
    reading = {key: settings[key] for key in ("holdout", "skip_tokens", "memory") if key in settings}
    spec = PruneSpec((Unstructured(0.6),), **settings.get("prune", {}))
    (plain,) = prune_layer(open_layer(layer, NUMBA, **reading), spec, ridge=settings.get("ridge"), wasserstein=False)
    assert run.weights.tobytes() == plain.weight.tobytes()
    assert (run.ridge.item(), run.raised.item(), run.zeros.item()) == (plain.ridge, plain.raised, plain.zeros)
    assert (run.tokens_per_expert.item(), run.holdout_per_expert.item()) == (plain.tokens, plain.holdout_tokens)
    assert (run.rank.item(), run.own.item()) == (plain.rank, 1)
    errors = run.errors
    assert (errors.relative_error, errors.relative_error_holdout) == (
        plain.relative_error,
        plain.relative_error_holdout,
    )
    np.testing.assert_array_equal(errors.neuron_error, plain.neuron_error)
    np.testing.assert_array_equal(run.relative_improvement, 1.0)
    assert (run.relative_improvement_holdout is None) == (settings.get("holdout") == 0)


# ---- what is reported


@backends
@pytest.mark.parametrize("dtype", ["float64", "float32", ml_dtypes.bfloat16])
def test_errors_are_those_of_the_tokens(tmp_path, backend, dtype):
    x, w = clustered()[0].astype(dtype), weights(dtype=dtype)
    layer = dump_of(tmp_path, {"input": x, "weight": w})["l"]
    run, rel = expanded_one(layer, backend, 4, "0.7"), 1e-9 if dtype == "float64" else 1e-4
    assert run.weights.dtype == w.dtype
    assert (run.tokens_per_expert.sum(), run.holdout_per_expert.sum()) == (270, 30)
    for part, ending in ((slice(0, 270), ""), (slice(270, 300), "_holdout")):
        lost, whole = losses(run.weights, w, x[part], run.labels[part])
        found = {name: getattr(run.errors, f"{name}_error{ending}") for name in ("relative", "neuron", "expert")}
        assert found["relative"] == pytest.approx(lost.sum() / whole.sum(), rel=rel)
        np.testing.assert_allclose(found["neuron"], lost.sum(axis=0) / whole.sum(axis=0), rtol=rel)
        np.testing.assert_allclose(found["expert"], lost.sum(axis=1) / whole.sum(axis=1), rtol=rel)


@backends
@given(seed=SEEDS, k=st.integers(1, 4))
def test_expert_losses_are_those_of_loops(backend, seed, k):
    rng = np.random.default_rng(seed)
    x, dense, experts = rng.standard_normal((30, 5)), rng.standard_normal((3, 5)), rng.standard_normal((k, 3, 5))
    labels = rng.integers(k, size=30)
    grams, totals, counts = backend.gram(x, labels, k)
    found = expert_errors(experts, dense, ClusterSums(grams, totals, counts, None, np.zeros(k, np.int64)), backend)
    lost, whole = losses(experts, dense, x, labels)
    assert found.relative_error == pytest.approx(lost.sum() / whole.sum())
    np.testing.assert_allclose(found.neuron_error, lost.sum(axis=0) / whole.sum(axis=0))
    used = counts > 0
    np.testing.assert_allclose(found.expert_error[used], lost.sum(axis=1)[used] / whole.sum(axis=1)[used])
    assert np.isnan(found.expert_error[~used]).all()


def test_relative_improvement_is_a_ratio_of_root_mean_square_errors(tmp_path):
    x, w = clustered(dtype="float64")[0], weights(dtype="float64")
    layer = dump_of(tmp_path, {"input": x, "weight": w})["l"]
    one, many = expanded([layer], NUMPY, (1, 4), "0.7")[0]
    for part, found in (
        (slice(0, 270), many.relative_improvement),
        (slice(270, 300), many.relative_improvement_holdout),
    ):
        dense = x[part] @ w.T
        of_one = x[part] @ one.weights[0].T
        of_many = np.array([many.weights[c] @ token for token, c in zip(x[part], many.labels[part], strict=True)])
        rmse = [np.sqrt(np.square(outputs - dense).mean(axis=0)) for outputs in (of_one, of_many)]
        np.testing.assert_allclose(found, rmse[0] / rmse[1], rtol=1e-9)
    assert many.errors.relative_error < one.errors.relative_error
    (alone,) = expanded([layer], NUMPY, 4, "0.7")[0]  # one expert is the measure, asked for or not
    np.testing.assert_array_equal(alone.relative_improvement, many.relative_improvement)


def test_relative_improvement_where_nothing_is_lost():
    one, many = np.array([0.0, 0.04, 0.04, 0.0]), np.array([0.0, 0.0, 0.01, 0.01])
    np.testing.assert_array_equal(relative_improvement(one, many), [1, np.inf, 2, 0])


def test_each_expert_is_described(layer):
    x, _ = clustered()
    run = expanded_one(layer, NUMPY, 4, "0.7", clusters=ClusterSpec(least_tokens=1), prior=0.5)
    for c in range(4):
        mine = x[:270][run.labels[:270] == c]
        assert run.tokens_per_expert[c] == len(mine)
        assert run.holdout_per_expert[c] == np.count_nonzero(run.labels[270:] == c)
        assert run.rank[c] == np.linalg.matrix_rank(mine.astype(float))
        share = len(mine) / (len(mine) + 0.5 * 12)
        assert run.own[c] == pytest.approx(share)
        effective = 1 / (1 / 270 + share**2 * (1 / len(mine) - 1 / 270))
        assert run.ridge[c] == pytest.approx(max(12 / effective, 0.0472), abs=1e-4)  # 0.0472 is that of 0.7
        assert run.zeros_ridge[c] == pytest.approx(max(12 / effective, 0.2))
    assert run.stored == np.count_nonzero(run.weights)
    assert run.router_of == "l"


@backends
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("sparsity", "zeros"), [("0", 0), ("0.29", 27), ("0.7", 67), ("0.999", 95), ("1", 96)])
def test_every_expert_has_exactly_as_many_zeros_as_asked_for(layer, backend, method, sparsity, zeros):
    run = expanded_one(layer, backend, 3, sparsity, prune={"method": method})
    np.testing.assert_array_equal(run.zeros, zeros)
    np.testing.assert_array_equal(np.count_nonzero(run.weights == 0, axis=(1, 2)), zeros)
    if sparsity == "0":
        assert all(expert.tobytes() == weights().tobytes() for expert in run.weights)
    assert (sparsity == "1") == (not run.weights.any(axis=(1, 2)).all())  # else no expert is all zero


@pytest.mark.parametrize("method", METHODS)
def test_n_of_m_is_kept_in_every_expert(layer, method):
    run = expanded_one(layer, NUMBA, 3, "1:4", prune={"method": method})
    np.testing.assert_array_equal((run.weights != 0).reshape(3, 8, 3, 4).sum(axis=3), 1)


@backends
def test_neurons_with_a_sparsity_of_their_own(layer, backend):
    w, spec = weights(), PruneSpec((Unstructured((0.0, 0.75) * 4),), group="row")
    labels = clustered()[1]
    sums = sum_clusters(open_layer(layer, backend), labels, 4)
    (found,) = prune_experts(open_layer(layer, backend), w, sums, spec, prior=0.25).weights
    for expert in found:
        assert expert[::2].tobytes() == w[::2].tobytes()
        np.testing.assert_array_equal((expert[1::2] == 0).sum(axis=1), 9)


# ---- each expert by itself


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prior", [0.0, 0.25, 10.0])
def test_an_expert_is_pruned_as_if_there_were_no_other(tmp_path, method, prior):
    """On the mean of what its tokens and all tokens say, and no other expert's weights."""
    x, w = clustered(dtype="float64")[0], weights(dtype="float64")
    run = expanded_one(dump_of(tmp_path, {"input": x, "weight": w})["l"], NUMPY, 4, "0.6", prior=prior,
                       prune={"method": method})  # fmt: skip
    seen = x[:270]
    for c, expert in enumerate(run.weights):
        mine = seen[run.labels[:270] == c]
        share = len(mine) / (len(mine) + prior * 12)
        h = share * mine.T @ mine + (1 - share) * len(mine) * seen.T @ seen / 270
        spec = PruneSpec((Unstructured(0.6),), method, ridge=run.zeros_ridge[c], resolve=False)
        mask = prune(w[None], h[None], spec)[0][0, 0] != 0
        alone = resolve(w, h + run.ridge[c] * np.diag(h.diagonal()), mask)
        np.testing.assert_array_equal(alone == 0, expert == 0)
        np.testing.assert_allclose(alone, expert, rtol=1e-7, atol=1e-9)


@backends
def test_how_many_experts_go_to_the_backend_at_a_time_changes_no_bit(layer, backend, monkeypatch):
    from wncore.experts import pruned

    found = []
    for at_once in (1, 3, 4):
        monkeypatch.setattr(pruned, "experts_at_once", lambda *_, at_once=at_once: at_once)
        found.append(expanded_one(layer, backend, 4, "0.7"))
    assert found[0].weights.tobytes() == found[1].weights.tobytes() == found[2].weights.tobytes()
    np.testing.assert_array_equal(found[0].ridge, found[2].ridge)


def test_several_sparsities_in_one_call_are_those_of_each_alone(layer):
    for k in (1, 4):
        together = expanded([layer], NUMBA, k, "0.5,0.75,2:4")[0]
        for run, pattern in zip(together, ("0.5", "0.75", "2:4"), strict=True):
            alone = expanded_one(layer, NUMBA, k, pattern)
            assert run.weights.tobytes() == alone.weights.tobytes()
            np.testing.assert_array_equal(run.relative_improvement, alone.relative_improvement)


# ---- clusters that are too small


@backends
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prior", [0.0, 0.25])
def test_no_expert_is_all_zero_however_few_its_tokens(layer, backend, method, prior):
    """Clusters of none, of one token, of fewer than there are inputs, and of all the rest."""
    labels = np.full(300, 3)
    labels[[5, 7, 11, 13]] = [1, 2, 2, 2]
    sums = sum_clusters(open_layer(layer, backend), labels, 4)
    np.testing.assert_array_equal(sums.tokens, [0, 1, 3, 266])
    pruned = prune_experts(
        open_layer(layer, backend), weights(), sums, PruneSpec((Unstructured(0.8),), method), prior=prior
    )
    (found,) = pruned.weights
    assert np.isfinite(found.astype(float)).all()
    np.testing.assert_array_equal((found == 0).sum(axis=(1, 2)), 76)
    assert ((pruned.ridge[0] >= 0.01) & (pruned.ridge[0] <= 1)).all()
    errors = expert_errors(found, weights(), sums, backend)
    assert np.isnan(errors.expert_error[0])
    assert np.isfinite(errors.expert_error[1:]).all()
    assert np.isfinite(errors.relative_error)


def test_an_empty_cluster_has_the_expert_of_the_whole_layer(layer):
    labels = np.repeat([0, 2], 150)
    sums = sum_clusters(open_layer(layer, NUMPY), labels, 3)
    spec = PruneSpec((Unstructured(0.5),))
    found = prune_experts(open_layer(layer, NUMPY), weights(), sums, spec, prior=0.25)
    plain = prune_experts(open_layer(layer, NUMPY), weights(), sum_clusters(open_layer(layer, NUMPY)), spec, prior=0.25)
    np.testing.assert_allclose(found.weights[0][1], plain.weights[0][0], rtol=1e-5, atol=1e-6)
    assert found.ridge[0][1] == plain.ridge[0][0] == 0.25


def test_what_a_starved_cluster_borrows_helps_on_other_tokens(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((240, 24)) @ (np.eye(24) + rng.standard_normal((24, 24)) / 3)
    layer = dump_of(tmp_path, {"input": x, "weight": weights(8, 24)})["l"]
    held = [
        expanded_one(layer, NUMBA, 12, "0.7", prior=prior, holdout=0.3).errors.relative_error_holdout
        for prior in (0.0, 0.25)
    ]
    assert held[1] < 0.95 * held[0]
