"""What must not matter to experts: names of clusters, the order of tokens, memory, the backend, layers beside them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from strategies import BACKENDS, SEEDS
from strategies_experts import clustered, dump_of, expanded, expanded_one, same_partition, weights

import wncore
from wncore.dumps import open_dump, write_dump
from wncore.experts import runs
from wncore.experts.fitting import ClusterSpec
from wncore.experts.layers import groups
from wncore.experts.pruned import prune_experts
from wncore.layers.activations import open_layer, open_layers
from wncore.pruning.methods import METHODS, PruneSpec
from wncore.pruning.patterns import Unstructured
from wncore.sums import sum_clusters

NUMPY, NUMBA = BACKENDS
backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
TOLERANCE = {"float64": {"rtol": 1e-9, "atol": 1e-9}, "float32": {"rtol": 1e-3, "atol": 1e-4}}


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    return dump_of(tmp_path_factory.mktemp("layer"), {"input": clustered()[0], "weight": weights()})["l"]


def assert_same(found, expected, dtype="float32"):
    """The same zeros, and weights and errors as close as sums in another order are."""
    np.testing.assert_array_equal(found.weights == 0, expected.weights == 0)
    np.testing.assert_allclose(found.weights, expected.weights, **TOLERANCE[dtype])
    for name in ("relative_error", "neuron_error", "expert_error", "relative_error_holdout", "neuron_error_holdout"):
        ours, theirs = getattr(found.errors, name), getattr(expected.errors, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9 if dtype == "float64" else 1e-4)


# ---- clusters and tokens


@backends
@given(seed=SEEDS)
def test_clusters_by_other_names_are_experts_by_other_names(backend, layer, seed):
    sums = sum_clusters(open_layer(layer, backend), clustered()[1], 4)
    order = np.random.default_rng(seed).permutation(4)
    renamed = np.argsort(order)[clustered()[1]]
    turned = sum_clusters(open_layer(layer, backend), renamed, 4)
    spec = PruneSpec((Unstructured(0.6),), iterations=5)
    found, expected = (
        prune_experts(open_layer(layer, backend), weights(), one, spec, prior=0.25) for one in (turned, sums)
    )
    np.testing.assert_allclose(found.weights[0], expected.weights[0][order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.ridge[0], expected.ridge[0][order], rtol=1e-12)


@backends
def test_a_router_with_its_centroids_in_another_order(layer, backend, monkeypatch):
    order, expected = np.array([2, 0, 3, 1]), expanded_one(layer, backend, 4, "0.6")
    fit = runs.fit_routing

    def turned(projection, k, *rest):
        found = fit(projection, k, *rest)
        if k == 1:
            return found
        router = replace(found.router, centroids=found.router.centroids[order])
        return replace(found, router=router, labels=np.argsort(order)[found.labels])

    monkeypatch.setattr(runs, "fit_routing", turned)
    found = expanded_one(layer, backend, 4, "0.6")
    np.testing.assert_allclose(found.weights, expected.weights[order], **TOLERANCE["float32"])
    np.testing.assert_allclose(found.relative_improvement, expected.relative_improvement, rtol=1e-4)
    np.testing.assert_array_equal(found.tokens_per_expert, expected.tokens_per_expert[order])
    x = clustered()[0]
    np.testing.assert_allclose(found.experts.forward(x), expected.experts.forward(x), rtol=1e-3, atol=1e-3)


@backends
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_calibration_tokens_does_not_matter(tmp_path, backend, seed):
    (x, _), w = clustered(dtype="float64"), weights(dtype="float64")
    order = np.concatenate([np.random.default_rng(seed).permutation(270), np.arange(270, 300)])
    runs = [
        expanded_one(dump_of(tmp_path / str(i), {"input": tokens, "weight": w})["l"], backend, 4, "0.6")
        for i, tokens in enumerate((x, x[order]))
    ]
    assert same_partition(runs[1].labels, runs[0].labels[order])
    names = [runs[1].labels[order.argsort()[np.flatnonzero(runs[0].labels == c)[0]]] for c in range(4)]
    np.testing.assert_allclose(runs[1].weights[names], runs[0].weights, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(runs[1].errors.neuron_error_holdout, runs[0].errors.neuron_error_holdout, rtol=1e-9)


@backends
def test_tokens_given_twice_change_nothing_but_their_number(tmp_path, backend):
    """Without a prior and with one ridge: counts enter through these two alone."""
    x, w = clustered(dtype="float64")[0], weights(dtype="float64")
    once, twice = (
        expanded_one(dump_of(tmp_path / str(n), {"input": np.tile(x, (n, 1)), "weight": w})["l"], backend, 4, "0.6",
                     prior=0.0, ridge=0.02, holdout=0)
        for n in (1, 2)
    )  # fmt: skip
    assert same_partition(twice.labels[:300], once.labels)
    names = [twice.labels[np.flatnonzero(once.labels == c)[0]] for c in range(4)]
    np.testing.assert_array_equal(twice.tokens_per_expert[names], 2 * once.tokens_per_expert)
    np.testing.assert_allclose(twice.weights[names], once.weights, rtol=1e-7, atol=1e-9)


# ---- the machine


@backends
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_memory_changes_no_bit(tmp_path, backend, dtype):
    """With 1 MiB one expert is pruned at a time."""
    x, _ = clustered(4500, dtype=dtype)
    layer = dump_of(tmp_path, {"input": x, "weight": weights(dtype=dtype)})["l"]
    runs = [expanded_one(layer, backend, 4, "0.6", memory=memory) for memory in (2**20, 2**30)]
    np.testing.assert_array_equal(runs[0].labels, runs[1].labels)
    assert runs[0].weights.tobytes() == runs[1].weights.tobytes()
    assert runs[0].router.centroids.tobytes() == runs[1].router.centroids.tobytes()
    np.testing.assert_array_equal(runs[0].errors.neuron_error, runs[1].errors.neuron_error)


@pytest.mark.parametrize("k", [1, 4])
def test_the_number_of_threads_changes_no_bit(tmp_path, k):
    x, _ = clustered(5000, 24)
    layer = dump_of(tmp_path, {"input": x, "weight": weights(d=24)})["l"]
    one, two = (expanded_one(layer, wncore.get_backend("numba", threads=n), k, "0.6") for n in (1, 2))
    assert one.weights.tobytes() == two.weights.tobytes()
    assert one.router.centroids.tobytes() == two.router.centroids.tobytes()
    np.testing.assert_array_equal(one.errors.neuron_error, two.errors.neuron_error)


@backends
@pytest.mark.parametrize("balanced", [False, True])
def test_a_seed_gives_the_same_bits_again(tmp_path, backend, balanced):
    layer = dump_of(tmp_path, {"input": clustered(apart=1.0)[0], "weight": weights()})["l"]
    clusters = [ClusterSpec(components=4, restarts=1, seed=seed, balanced=balanced) for seed in (3, 3, 4)]
    first, again, other = (expanded_one(layer, backend, 5, clusters=one) for one in clusters)
    assert first.weights.tobytes() == again.weights.tobytes()
    assert first.router.centroids.tobytes() == again.router.centroids.tobytes()
    assert first.router.centroids.tobytes() != other.router.centroids.tobytes()


@pytest.mark.parametrize("name", ["numba", "torch"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_backends_differ_by_rounding(tmp_path, name, dtype):
    if name == "torch":
        pytest.importorskip("torch")
    layer = dump_of(tmp_path, {"input": clustered(dtype=dtype)[0], "weight": weights(dtype=dtype)})["l"]
    found, expected = (expanded_one(layer, wncore.get_backend(one), 4, "0.6") for one in (name, "numpy"))
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert_same(found, expected, dtype)


@pytest.mark.parametrize("power", [-40, -7, 7, 40])
def test_inputs_in_another_unit_have_the_same_experts(tmp_path, power):
    x, w = clustered(dtype="float64")[0], weights(dtype="float64")
    found, expected = (
        expanded_one(dump_of(tmp_path / str(p), {"input": x * 2.0**p, "weight": w})["l"], NUMBA, 4, "0.6")
        for p in (power, 0)
    )
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert_same(found, expected, "float64")


# ---- other layers


@pytest.fixture
def shared(tmp_path):
    """Three layers, two of which read one input, in another order than that of their names."""
    x, other = clustered()[0], clustered(seed=1)[0]
    tensors = {"up.input": x, "up.weight": weights(6), "gate.weight": weights(5, seed=1)}
    tensors |= {"down.input": other, "down.weight": weights(4, seed=2)}
    return dump_of(tmp_path, tensors, shared_inputs={"gate": "up"})


@backends
def test_layers_with_one_input_share_a_router_and_are_what_they_are_alone(shared, backend):
    assert list(shared) == ["down", "gate", "up"]
    found = {runs[0].name: runs[0] for runs in expanded(shared.values(), backend, 4, "0.6")}
    assert {name: run.router_of for name, run in found.items()} == {"down": "down", "gate": "gate", "up": "gate"}
    assert found["up"].router is found["gate"].router
    assert found["down"].router is not found["gate"].router
    for name, run in found.items():
        alone = expanded_one(shared[name], backend, 4, "0.6")
        assert run.weights.tobytes() == alone.weights.tobytes()
        for part in ("mean", "components", "centroids"):
            assert getattr(run.router, part).tobytes() == getattr(alone.router, part).tobytes()
        np.testing.assert_array_equal(run.errors.neuron_error_holdout, alone.errors.neuron_error_holdout)
        np.testing.assert_array_equal(run.relative_improvement, alone.relative_improvement)


def test_layers_with_one_input_but_masks_of_their_own_share_nothing(tmp_path):
    x, mask = clustered()[0], np.arange(300) >= 60
    count = {"tokens.mask": np.ones(300, bool)}
    write_dump(tmp_path / "a.safetensors", {"gate.input": x, "gate.weight": weights(5)} | count)
    tensors = {"up.output": x @ weights(6).T, "up.weight": weights(6), "tokens.mask": mask}
    write_dump(tmp_path / "b.safetensors", tensors, shared_inputs={"up": "gate"})
    layers = open_dump(tmp_path).layers
    assert [[one.name for one in group] for group in groups(open_layers(layers.values(), NUMBA))] == [
        ["gate"],
        ["up"],
    ]
    found = expanded(layers.values(), NUMBA, 4, "0.6")
    assert [run.router_of for (run,) in found] == ["gate", "up"]
    assert [run.tokens_per_expert.sum() for (run,) in found] == [270, 216]
    kept = dump_of(tmp_path / "kept", {"input": x[mask], "weight": weights(6)})["l"]
    assert found[1][0].weights.tobytes() == expanded_one(kept, NUMBA, 4, "0.6").weights.tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_neurons_in_another_order_are_the_same_neurons(tmp_path, method):
    x, w, order = clustered(dtype="float64")[0], weights(dtype="float64"), np.random.default_rng(0).permutation(8)
    found, expected = (
        expanded_one(dump_of(tmp_path / str(i), {"input": x, "weight": one})["l"], NUMPY, 3, "2:4",
                     prune={"method": method})
        for i, one in enumerate((w[order], w))
    )  # fmt: skip
    np.testing.assert_allclose(found.weights, expected.weights[:, order], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.relative_improvement, expected.relative_improvement[order], rtol=1e-7)
