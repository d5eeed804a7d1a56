"""Pairs of tokens are measured once for layers that share their input, and anew for any other."""

import gc
from dataclasses import replace
from weakref import ref

import numpy as np
import pytest

from wncore import mapping
from wncore.backend import get_backend
from wncore.layers.arrays import hold_layer
from wncore.mapping import draw_afresh, draw_mapping


@pytest.fixture
def layer():
    values = np.random.default_rng(0).standard_normal((40, 70))
    return hold_layer("fc", get_backend("numpy"), input=values, output=values[:, :3])


def same(one, other):
    parts = [(each.true.distances, each.shuffled.distances, each.pairs.left, each.pairs.right) for each in (one, other)]
    return all(map(np.array_equal, *parts))


def test_layers_of_one_input_share_their_pairs(layer):
    drawn = draw_mapping(layer, 15, 0)
    other = replace(layer, layer=replace(layer.layer, name="other"))
    assert draw_mapping(other, 15, 0) is drawn
    assert same(drawn, draw_afresh(layer, 15, 0))


@pytest.mark.parametrize("change", ["input", "tokens", "backend", "pairs", "seed"])
def test_all_else_is_drawn_anew(layer, change):
    drawn = draw_mapping(layer, 15, 0)
    pairs, seed = (14, 0) if change == "pairs" else (15, 1) if change == "seed" else (15, 0)
    if change == "input":
        layer = replace(layer, layer=replace(layer.layer, input=replace(layer.input, values=2 * layer.input.values)))
    elif change == "tokens":
        layer = replace(layer, tokens=replace(layer.tokens))
    elif change == "backend":
        layer = replace(layer, backend=get_backend("numba"))
    found = draw_mapping(layer, pairs, seed)
    assert found is not drawn
    assert same(found, draw_afresh(layer, pairs, seed))


def test_what_was_drawn_last_does_not_hold_the_input():
    values = np.random.default_rng(0).standard_normal((40, 70))
    layer = hold_layer("fc", get_backend("numpy"), input=values, output=values[:, :3])
    draw_mapping(layer, 15, 0)
    watched = ref(layer.input)
    del layer
    gc.collect()
    assert len(mapping._last) == 1
    assert watched() is None


def test_distances_are_those_of_the_rows_themselves(layer):
    drawn = draw_mapping(layer, 20, 3)  # 40 tokens: each is in a pair, and once more in a shuffled one
    x = layer.input.values
    for pairs in (drawn.true, drawn.shuffled):
        assert len(pairs.distances) == 20
        assert pairs.distances.max() == 1.0
    expected = np.linalg.norm(x[drawn.pairs.left] - x[drawn.pairs.right], axis=1)
    assert drawn.true.distances == pytest.approx(expected / expected.max(), rel=1e-14)
    order = np.random.default_rng([3, 1]).permutation(40)
    expected = np.linalg.norm(x[order[drawn.pairs.left]] - x[order[drawn.pairs.right]], axis=1)
    assert drawn.shuffled.distances == pytest.approx(expected / expected.max(), rel=1e-14)
