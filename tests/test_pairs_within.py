"""Pairs of tokens within clusters: disjoint, each cluster its share, measured by their inputs."""

import numpy as np
import pytest
from dump_samples import only

from wncore.dumps import open_dump, write_dump
from wncore.layers.activations import open_layer
from wncore.mapping import draw_mapping, draw_within
from wncore.reference import NumpyBackend

TOKENS, SEED = 300, 3


@pytest.fixture
def inputs():
    return np.random.default_rng(0).standard_normal((TOKENS, 6))


@pytest.fixture
def layer(tmp_path, inputs):
    write_dump(tmp_path / "l.safetensors", {"l.input": inputs, "l.weight": np.ones((2, 6))})
    return only(open_dump(tmp_path / "l.safetensors"))


@pytest.mark.parametrize("pairs", [0, 10, 60, 10_000])
def test_pairs_stay_within_their_cluster_and_each_gets_its_share(layer, inputs, pairs):
    labels = np.random.default_rng(1).choice([0, 0, 0, 1, 3], TOKENS)
    labels[17] = 4
    clusters = [np.flatnonzero(labels == c) for c in range(5)]
    found = draw_within(open_layer(layer, NumpyBackend(), memory=2**20), clusters, pairs, SEED)
    for one, members in zip(found, clusters, strict=True):
        ends = np.concatenate([one.pairs.left, one.pairs.right])
        assert len(set(ends.tolist())) == len(ends) == 2 * min(pairs * len(members) // TOKENS, len(members) // 2)
        assert (ends < len(members)).all()
        lengths = np.linalg.norm(inputs[members[one.pairs.left]] - inputs[members[one.pairs.right]], axis=1)
        np.testing.assert_allclose(one.distances, lengths / lengths.max(initial=0.0), rtol=1e-12)


def test_one_cluster_has_the_pairs_of_the_layer(layer):
    (one,) = draw_within(open_layer(layer, NumpyBackend(), memory=2**20), [np.arange(TOKENS)], 200, SEED)
    whole = draw_mapping(open_layer(layer, NumpyBackend(), memory=2**20), 200, SEED).true
    np.testing.assert_array_equal(one.pairs.left, whole.pairs.left)
    np.testing.assert_array_equal(one.pairs.right, whole.pairs.right)
    np.testing.assert_array_equal(one.distances, whole.distances)


def test_pairs_of_equal_inputs_are_dropped_in_their_cluster(tmp_path, inputs):
    inputs[:100] = inputs[0]
    write_dump(tmp_path / "e.safetensors", {"l.input": inputs, "l.weight": np.ones((2, 6))})
    layer = only(open_dump(tmp_path / "e.safetensors"))
    clusters = [np.arange(100), np.arange(100, TOKENS)]
    equal, rest = draw_within(open_layer(layer, NumpyBackend(), memory=2**20), clusters, TOKENS, SEED)
    assert (len(equal.pairs.left), equal.pairs.dropped) == (0, 50)
    assert (len(rest.pairs.left), rest.pairs.dropped) == (100, 0)
