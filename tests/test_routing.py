"""A routed layer equals an explicit loop over tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import BACKENDS, SEEDS

backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


@st.composite
def routings(draw):
    """Inputs (n, d), weights (k, m, d), a bias (m,) or None, labels (n,), in one dtype; an expert may get no token."""
    rng = np.random.default_rng(draw(SEEDS, label="seed"))
    n, d, k, m = (draw(st.integers(1, most), label=name) for name, most in (("n", 30), ("d", 9), ("k", 5), ("m", 9)))
    dtype = draw(st.sampled_from(["float64", "float32"]), label="dtype")
    x, weights, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((n, d), (k, m, d), (m,)))
    return x, weights, bias if draw(st.booleans(), label="bias") else None, rng.integers(0, k, n)


@backends
@given(routing=routings())
def test_equals_a_loop_over_tokens(backend, routing):
    x, weights, bias, labels = routing
    expected = [weights[label].astype(float) @ row.astype(float) for row, label in zip(x, labels, strict=True)]
    expected = np.array(expected) + (0 if bias is None else bias.astype(float))
    found = backend.routed_linear(x, weights, bias, labels)
    size = np.abs(x.astype(float)).sum(axis=1, keepdims=True) * np.abs(weights).max() + 5
    assert found.dtype == x.dtype
    assert found.shape == expected.shape
    assert (np.abs(found - expected) <= 2 * np.finfo(x.dtype).eps * size).all()


@backends
@given(routing=routings())
def test_one_expert_is_a_plain_layer_for_every_token(backend, routing):
    x, weights, bias, labels = routing
    alone = backend.routed_linear(x, weights[:1], bias, np.zeros_like(labels))
    copies = backend.routed_linear(x, np.repeat(weights[:1], len(weights), axis=0), bias, labels)
    tolerance = 20 * np.finfo(x.dtype).eps * np.abs(x).sum()
    np.testing.assert_allclose(copies, alone, atol=tolerance)


@backends
@given(routing=routings())
def test_nothing_is_written_into(backend, routing):
    before = [None if part is None else part.copy() for part in routing]
    backend.routed_linear(*routing)
    for part, was in zip(routing, before, strict=True):
        np.testing.assert_array_equal(part, was)
