"""Gram matrices equal loops over tokens, and add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS

from wncore.grams import gram


@st.composite
def clustered(draw, numbers="normal"):
    """Inputs (n, d), labels (n,), k; a cluster may be empty, and so may all be."""
    rng = np.random.default_rng(draw(SEEDS, label="seed"))
    n, d, k = (
        draw(st.integers(least, most), label=name) for name, least, most in (("n", 0, 30), ("d", 1, 6), ("k", 1, 5))
    )
    x = rng.standard_normal((n, d)) if numbers == "normal" else rng.integers(-100, 100, (n, d)).astype(float)
    return x, rng.integers(0, draw(st.integers(1, k), label="clusters that are used"), n), k


def by_loops(x, labels, k):
    d = x.shape[1]
    grams, sums, counts = np.zeros((k, d, d)), np.zeros((k, d)), np.zeros(k, int)
    for token, label in zip(x.astype(float), labels, strict=True):
        counts[label] += 1
        for i in range(d):
            sums[label, i] += token[i]
            for j in range(d):
                grams[label, i, j] += token[i] * token[j]
    return grams, sums, counts


@given(case=clustered())
def test_equals_loops_over_tokens(case):
    for found, expected in zip(gram(*case), by_loops(*case), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
        assert found.dtype == expected.dtype


@given(case=clustered(numbers="integers"))
def test_sums_of_whole_numbers_are_exact_whatever_the_order_and_symmetric(case):
    x, labels, k = case
    found, turned = gram(x, labels, k), gram(x[::-1], labels[::-1], k)
    for part, again, expected in zip(found, turned, by_loops(*case), strict=True):
        np.testing.assert_array_equal(part, expected)
        np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(found[0], found[0].swapaxes(1, 2))


@given(case=clustered(numbers="integers"), cut=st.integers(0, 30))
def test_batches_add_up(case, cut):
    x, labels, k = case
    whole, first, second = gram(x, labels, k), gram(x[:cut], labels[:cut], k), gram(x[cut:], labels[cut:], k)
    for parts in zip(first, second, whole, strict=True):
        np.testing.assert_array_equal(parts[0] + parts[1], parts[2])


@given(case=clustered(numbers="integers"))
def test_clusters_add_up_to_the_layer(case):
    x, labels, k = case
    for parts, whole in zip(gram(x, labels, k), gram(x, np.zeros_like(labels), 1), strict=True):
        np.testing.assert_array_equal(parts.sum(axis=0), whole[0])


def test_an_empty_cluster_gives_zeros():
    grams, sums, counts = gram(np.ones((3, 2)), np.array([0, 2, 2]), k=4)
    assert counts.tolist() == [1, 0, 2, 0]
    assert not grams[[1, 3]].any()
    assert not sums[[1, 3]].any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_sums_are_float64_whatever_the_dtype(dtype):
    """Squares of 100.5 do not fit into int8, and 10,000 of them not into float16 or float32."""
    x = np.full((10_001, 1), 100.5).astype(dtype)
    value = float(x[0, 0])
    grams, sums, _ = gram(x, np.zeros(len(x), int), k=1)
    assert (grams.item(), sums.item()) == (10_001 * value**2, 10_001 * value)


@given(case=clustered())
def test_no_inputs_are_written_into(case):
    x, labels, k = case
    before = x.copy(), labels.copy()
    gram(np.asfortranarray(x), labels, k)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(labels, before[1])
