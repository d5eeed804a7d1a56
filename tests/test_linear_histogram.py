"""The histogram of a linear layer's outputs, which are not stored; and what its contract is judged by."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wncore import histograms, linear_histogram
from wncore.backend import get_backend
from wncore.errors import ShapeError
from wncore.testing.contracts.linear_histogram import CONTRACT, integrals, roundings


def layer(tokens=300, neurons=5, inputs=7, experts=3, dtype="float64"):
    rng = np.random.default_rng(0)
    return CONTRACT.make(rng, dtype, tokens=tokens, neurons=neurons, inputs=inputs, experts=experts)


def test_each_output_is_counted_where_it_belongs():
    given_layer = layer(tokens=40)
    x, weights, bias, labels, edges = given_layer.values()
    counts, sums, _ = linear_histogram(**given_layer)
    want_counts, want_sums = np.zeros_like(counts), np.zeros_like(sums)
    for t in range(len(x)):
        for i, edge in enumerate(edges):
            y = float(sum(w * value for w, value in zip(weights[labels[t], i], x[t], strict=True)) + bias[i])
            place = sum(e < y for e in edge)
            want_counts[i, place] += 1
            want_sums[i, place] += y - edge[max(place - 1, 0)]
    np.testing.assert_array_equal(counts, want_counts)
    np.testing.assert_allclose(sums, want_sums, rtol=1e-12, atol=1e-12)


def test_outputs_are_not_rounded_to_the_dtype_of_the_inputs():
    x, weights = np.array([[1.0]], np.float16), np.array([[[1.0]]], np.float16)
    _, sums, _ = linear_histogram(x, weights, np.array([2.0**-11], np.float16), [0], [[1.0, 2.0]])
    assert sums[0, 1] == 2.0**-11  # which float16 would have rounded to 0


def test_no_tokens_are_refused():
    with pytest.raises(ShapeError, match="at least one token"):
        linear_histogram(np.zeros((0, 2)), np.zeros((1, 3, 2)), None, [], [[0.0, 1.0]] * 3)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_numba_adds_up_its_blocks(monkeypatch, dtype):
    monkeypatch.setattr("wncore.fast.OUTPUTS", 64)
    monkeypatch.setattr("wncore.fast.histogram.CHUNK", 16)
    check(get_backend("numba"), dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("experts", [1, 3])
def test_torch_adds_up_its_blocks(monkeypatch, dtype, experts):
    pytest.importorskip("torch")
    monkeypatch.setattr("wncore_torch.plain.fused.block_size", lambda device: 64)
    check(get_backend("torch", device="cpu"), dtype, experts=experts)


def check(backend, dtype, **choices):
    arguments = layer(dtype=dtype, **choices)
    kinds = {"labels": "int64", "edges": "float64"}
    native = {name: backend.asarray(value, kinds.get(name, dtype)) for name, value in arguments.items()}
    answers = tuple(backend.to_numpy(answer) for answer in backend.linear_histogram(**native))
    assert max(CONTRACT.judge(answers, arguments, dtype).values()) <= 1


@given(seed=st.integers(0, 2**32 - 1), bins=st.integers(1, 9))
def test_counts_and_sums_give_the_integral_up_to_each_edge(seed, bins):
    rng = np.random.default_rng(seed)
    y, edges = rng.standard_normal(50), np.sort(rng.standard_normal(bins + 1))
    counts, sums, _ = histograms.histogram(y[:, None], edges[None])
    want = np.maximum(edges[:, None] - y, 0).sum(axis=1)
    np.testing.assert_allclose(integrals(counts[0], sums[0], edges), want, rtol=1e-12, atol=1e-12)


def test_small_whole_numbers_have_no_rounding():
    rng = np.random.default_rng(0)
    assert not roundings(CONTRACT.make(rng, "bfloat16", tokens=9, neurons=3, kind="whole"), "bfloat16").any()
    assert roundings(CONTRACT.make(rng, "bfloat16", tokens=9, neurons=3), "bfloat16").all()
