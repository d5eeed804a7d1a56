"""Distance and difficulty within clusters equal loops over neurons and clusters; one cluster is the layer itself."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from dump_samples import only
from strategies import BACKENDS

from wncore.difficulty import draw_pairs, mapping_difficulty
from wncore.dumps import open_dump, write_dump
from wncore.errors import InputError, ShapeError
from wncore.experts.disentanglement import change, changes, disentangle, wasserstein_neurons
from wncore.fast import NumbaBackend
from wncore.layers.activations import open_layer
from wncore.scoring import score_layer
from wncore.wasserstein import gaussian_distance

TOKENS, INPUTS, NEURONS, EXPERTS = 300, 6, 40, 5
PAIRS, SEED = 200, 3
COLUMNS = ("wasserstein_weighted", "wasserstein_weighted_dense", "difficulty_weighted", "two_sample")
backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


@pytest.fixture
def tensors():
    """Inputs of three kinds, and weights; neuron 4 is constant."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((TOKENS, INPUTS)) + 4 * rng.integers(0, 3, TOKENS)[:, None] * rng.standard_normal(INPUTS)
    w = rng.standard_normal((NEURONS, INPUTS))
    w[4] = 0
    return {"l.input": x, "l.weight": w, "l.bias": rng.standard_normal(NEURONS)}


@pytest.fixture
def labels():
    """Clusters of unequal size: the third is empty, the last has one token."""
    found = np.random.default_rng(1).choice([0, 0, 0, 1, 3], TOKENS)
    found[17] = 4
    return found


@pytest.fixture
def experts(tensors):
    """Pruned weights; the second expert of neuron 7 and all of neuron 8 are zero."""
    weights = np.repeat(tensors["l.weight"][None], EXPERTS, axis=0)
    weights[np.random.default_rng(2).random(weights.shape) < 0.4] = 0
    weights[1, 7] = weights[:, 8] = 0
    return weights


@pytest.fixture
def layer_of(tmp_path):
    def write(tensors, **options):
        write_dump(tmp_path / "l.safetensors", tensors, force=True, **options)
        return only(open_dump(tmp_path / "l.safetensors"))

    return write


def judge(layer, experts, labels, backend=BACKENDS[1], **options):
    settings = {"pairs": PAIRS, "seed": SEED} | options
    reading = {key: settings.pop(key) for key in ("skip_tokens", "memory") if key in settings}
    opened = open_layer(layer, backend, **reading)
    dense = score_layer(opened.alone().within(2**30), pairs=PAIRS)
    return disentangle(opened, experts, labels, dense=dense, **settings)


def agree(found, expected, columns=COLUMNS, **tolerance):
    for name in columns:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), err_msg=name, **tolerance)


def weighted(terms):
    """Average (tokens, number), NaN if there is none."""
    total = sum(tokens for tokens, _ in terms)
    return sum(tokens * number for tokens, number in terms) / total if total else np.nan


def by_loops(x, weights, bias, labels):
    """Distance and difficulty, neuron by neuron and cluster by cluster."""
    distance, difficulty = [], []
    for j in range(weights.shape[1]):
        distances, difficulties = [], []
        for c in range(len(weights)):
            mine = x[labels == c]
            if len(mine) < 2 or not weights[c, j].any():
                continue
            y = (mine @ weights[c, j] + bias[j])[:, None]
            distances.append((len(mine), gaussian_distance(y)[0]))
            pairs = draw_pairs(len(mine), PAIRS * len(mine) // len(x), SEED)
            if len(pairs.left) >= 2:
                difficulties.append((len(mine), mapping_difficulty(mine, y, pairs.left, pairs.right)[0]))
        distance.append(weighted(distances))
        difficulty.append(weighted(difficulties))
    return distance, difficulty


# ---- what it is


@backends
def test_equals_loops_over_neurons_and_clusters(backend, layer_of, tensors, experts, labels):
    x, w, b = (tensors[f"l.{part}"] for part in ("input", "weight", "bias"))
    found = judge(layer_of(tensors), experts, labels, backend)
    distance, difficulty = by_loops(x, experts, b, labels)
    np.testing.assert_allclose(found.wasserstein_weighted, distance, rtol=1e-9)
    np.testing.assert_allclose(found.difficulty_weighted, difficulty, rtol=1e-9)
    before, _ = by_loops(x, np.repeat(w[None], EXPERTS, axis=0), b, labels)
    np.testing.assert_allclose(found.wasserstein_weighted_dense, before, rtol=1e-9)
    for j in range(NEURONS):
        dense = x @ w[j] + b[j]
        sparse = np.array([row @ experts[c, j] + b[j] for row, c in zip(x, labels, strict=True)])
        moved = np.nan if j == 4 else np.abs(np.sort(dense) - np.sort(sparse)).mean() / dense.std()
        np.testing.assert_allclose(found.two_sample[j], moved, rtol=1e-9)
    assert np.flatnonzero(np.isnan(found.wasserstein_weighted)).tolist() == [4, 8]
    sizes = np.bincount(labels)[[0, 1, 3]]
    np.testing.assert_allclose(found.noise, 0.83 * sum(n / sizes.sum() / n**0.5 for n in sizes))


@backends
def test_one_expert_with_the_dense_weights_is_the_layer_itself(backend, layer_of, tensors):
    layer = layer_of({name: tensor.astype(np.float32) for name, tensor in tensors.items()})
    dense = score_layer(open_layer(layer, backend), pairs=PAIRS, seed=SEED)
    weights, labels = layer.weight.read()[None], np.zeros(TOKENS, np.int64)
    found = disentangle(open_layer(layer, backend), weights, labels, dense=dense, pairs=PAIRS, seed=SEED)
    np.testing.assert_array_equal(found.wasserstein_weighted, dense.wasserstein)
    np.testing.assert_array_equal(found.wasserstein_weighted_dense, dense.wasserstein)
    np.testing.assert_array_equal(found.difficulty_weighted, dense.mapping_difficulty)
    np.testing.assert_array_equal(found.two_sample, np.where(dense.constant, np.nan, 0.0))


@backends
def test_experts_that_were_not_pruned_move_nothing(backend, layer_of, tensors, labels):
    found = judge(layer_of(tensors), np.repeat(tensors["l.weight"][None], EXPERTS, axis=0), labels, backend)
    np.testing.assert_array_equal(found.wasserstein_weighted, found.wasserstein_weighted_dense)
    np.testing.assert_array_equal(found.two_sample, np.where(np.arange(NEURONS) == 4, np.nan, 0.0))


def test_the_noise_is_what_gaussian_neurons_have(layer_of):
    """The mean over 400 neurons is within four errors of the true one, of which 2 % were rounded off."""
    rng = np.random.default_rng(4)
    x, labels = rng.standard_normal((1000, 400)), np.repeat([0, 1, 2], [100, 200, 700])
    found = judge(layer_of({"l.input": x, "l.weight": np.eye(400)}), np.eye(400)[None].repeat(3, 0), labels, pairs=0)
    each = found.wasserstein_weighted
    assert abs(each.mean() - found.noise) < 4 * each.std() / 20 + 0.02 * found.noise


def test_clusters_disentangle_a_mixture(layer_of):
    """A neuron of two Gaussians, ten deviations apart, is Gaussian within each."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 4000)
    layer = layer_of({"l.input": rng.standard_normal((4000, 1)) + 10 * labels[:, None], "l.weight": np.ones((1, 1))})
    mixed = judge(layer, np.ones((1, 1, 1)), np.zeros(4000, np.int64)).wasserstein_weighted
    parted = judge(layer, np.ones((2, 1, 1)), labels).wasserstein_weighted
    assert mixed[0] > 0.3
    assert parted[0] < 0.04


# ---- what it does not depend on


def test_the_names_of_clusters_change_nothing(layer_of, tensors, experts, labels):
    layer, order = layer_of(tensors), np.array([3, 0, 4, 1, 2])
    found, expected = judge(layer, experts[np.argsort(order)], order[labels]), judge(layer, experts, labels)
    agree(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found.noise, expected.noise, rtol=1e-14)


def test_the_order_of_tokens_changes_nothing_but_the_pairs(layer_of, tensors, experts, labels):
    expected = judge(layer_of(tensors), experts, labels)
    order = np.random.default_rng(6).permutation(TOKENS)
    found = judge(layer_of(tensors | {"l.input": tensors["l.input"][order]}), experts, labels[order])
    agree(found, expected, ("wasserstein_weighted", "wasserstein_weighted_dense", "two_sample"), rtol=1e-9)


@backends
@pytest.mark.parametrize("memory", [2**20, 3 * 2**20])
def test_tiles_are_scored_like_the_whole(backend, layer_of, tensors, experts, labels, memory):
    layer = layer_of(tensors)
    agree(judge(layer, experts, labels, backend, memory=memory), judge(layer, experts, labels, backend), rtol=1e-9)


def test_tokens_that_do_not_count_are_passed_over(layer_of, tensors, experts, labels):
    mask = (np.random.default_rng(7).random(TOKENS) < 0.9).astype(np.uint8)
    masked = layer_of(tensors | {"tokens.mask": mask}, sequence_length=30)
    keep = masked.tokens(2).keep
    found = judge(masked, experts, labels[keep], skip_tokens=2)
    expected = judge(layer_of(tensors | {"l.input": tensors["l.input"][keep]}), experts, labels[keep])
    agree(found, expected, rtol=1e-9)


def test_outputs_of_the_dump_are_not_looked_at(layer_of, tensors, experts, labels):
    expected = judge(layer_of(tensors), experts, labels)
    layer = layer_of(tensors | {"l.output": np.random.default_rng(8).standard_normal((TOKENS, NEURONS))})
    agree(judge(layer, experts, labels), expected, rtol=0, atol=0)


def test_experts_have_the_dtype_of_the_dump(layer_of, tensors, experts, labels):
    narrow = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    wide = {name: tensor.astype(np.float64) for name, tensor in narrow.items()}
    rounded = experts.astype(ml_dtypes.bfloat16)
    expected = judge(layer_of(wide), rounded.astype(np.float64), labels)
    found = judge(layer_of(narrow), rounded, labels)
    agree(found, expected, COLUMNS[:3], rtol=1e-4)
    np.testing.assert_allclose(found.two_sample, expected.two_sample, atol=1e-5)


# ---- where it is undefined


@backends
def test_rounding_on_equal_inputs_is_no_distribution(backend, layer_of, tensors, labels):
    """The inputs of a small cluster are massive, as first tokens are, and equal but for their last digit."""
    x, mine = tensors["l.input"].astype(np.float32), labels == 1
    digit = np.random.default_rng(10).integers(0, 2, (mine.sum(), INPUTS)) * np.finfo(np.float32).eps
    x[mine] = 10_000 * x[0] * (1 + digit)
    layer = layer_of({"l.input": x, "l.weight": tensors["l.weight"].astype(np.float32)})
    weights = np.repeat(layer.weight.read()[None], EXPERTS, axis=0)
    found = judge(layer, weights, labels, backend)
    expected = judge(layer_of({"l.input": x[~mine], "l.weight": weights[0]}), weights, labels[~mine], backend)
    agree(found, expected, COLUMNS[:2], rtol=1e-9)


@backends
def test_the_unit_of_an_expert_changes_nothing(backend, layer_of, tensors, labels):
    """What is small beside another expert, or beside the dense weights, is not constant for that."""
    layer = layer_of({name: tensors[name] for name in ("l.input", "l.weight")})
    scales = np.array([1, 2.0**60, 1, 2.0**-60, 1])[:, None, None]
    found = judge(layer, scales * tensors["l.weight"], labels, backend)
    np.testing.assert_allclose(found.wasserstein_weighted, found.wasserstein_weighted_dense, rtol=1e-12)
    assert np.flatnonzero(np.isnan(found.wasserstein_weighted)).tolist() == [4]


def test_a_neuron_that_differs_on_one_token_is_constant_by_the_rule_for_layers(layer_of):
    w = np.ones((60, 2))
    x = np.ones((400, 2))
    w[:, 1] = np.geomspace(1e-6, 1, 60)
    x[5, 1] += 1e-9
    layer = layer_of({"l.input": x, "l.weight": w})
    opened = open_layer(layer, BACKENDS[1])
    dense = score_layer(opened, pairs=0)
    found = disentangle(opened, w[None], np.zeros(400, np.int64), dense=dense, pairs=0)
    assert 5 < dense.constant.sum() < 55
    np.testing.assert_array_equal(np.isnan(found.wasserstein_weighted), dense.constant)


def test_without_a_cluster_of_two_tokens_there_is_nothing(layer_of):
    rng = np.random.default_rng(9)
    layer = layer_of({"l.input": rng.standard_normal((3, 2)), "l.weight": rng.standard_normal((4, 2))})
    found = judge(layer, np.zeros((3, 4, 2)), np.arange(3))
    assert np.isnan(found.wasserstein_weighted).all()
    assert np.isnan(found.difficulty_weighted).all()
    assert np.isnan(found.noise)
    assert (found.two_sample > 0).all()


def test_no_pairs_no_difficulty(layer_of, tensors, experts, labels):
    assert judge(layer_of(tensors), experts, labels, pairs=0).difficulty_weighted is None


def test_what_does_not_fit_is_refused(layer_of, tensors, experts, labels):
    layer = layer_of(tensors)
    with pytest.raises(ShapeError, match=r"so its experts are \(k, 40, 6\); got \(5, 40, 5\)"):
        judge(layer, experts[..., :5], labels)
    with pytest.raises(ShapeError, match=r"300 tokens that count, each needs a label; got \(299,\)"):
        judge(layer, experts, labels[1:])
    with pytest.raises(InputError, match="has 4 experts; got labels from 0 to 4"):
        judge(layer, experts[:4], labels)
    dense = score_layer(open_layer(layer, BACKENDS[1]))
    with pytest.raises(InputError, match="l has no input or no weight"):
        disentangle(open_layer(replace(layer, input=None), BACKENDS[1]), experts, labels, dense=dense)


# ---- the summary


def test_changes_are_those_of_all_neurons_and_of_the_most_entangled(layer_of, tensors, experts, labels):
    layer = layer_of(tensors)
    dense, found = score_layer(open_layer(layer, NumbaBackend(threads=1)), pairs=PAIRS), judge(layer, experts, labels)
    top = wasserstein_neurons(dense)
    assert top.tolist() == [int(np.nanargmax(dense.wasserstein))]  # 3 % of 39
    summary = changes(dense, found)
    ratios = [
        after / before
        for before, after in zip(dense.wasserstein, found.wasserstein_weighted, strict=True)
        if not np.isnan(before + after)
    ]
    assert summary["wasserstein"]["all"].neurons == len(ratios) == NEURONS - 2
    assert summary["wasserstein"]["all"].share_fallen == np.mean([ratio < 1 for ratio in ratios])
    np.testing.assert_allclose(summary["wasserstein"]["all"].median_change, np.median(ratios) - 1)
    assert summary["difficulty"]["top"].neurons == 1
    assert set(changes(dense, replace(found, difficulty_weighted=None))) == {"wasserstein"}


def test_no_neuron_no_change():
    found = change(np.array([np.nan, 0.0]), np.ones(2))
    assert found.neurons == 0
    assert np.isnan([found.share_fallen, found.median_change]).all()
