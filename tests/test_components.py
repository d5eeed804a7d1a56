"""Principal components from sums equal those of the centred data: by LAPACK's SVD, and by scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from strategies import SEEDS

from wncore.components import principal_components
from wncore.errors import InputError


def inputs(tokens=200, d=7, seed=0):
    """Inputs (n, d) with a mean, whose variance falls from one direction to the next."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return rng.standard_normal((tokens, d)) * 0.7 ** np.arange(d) @ rotation + 3 * rng.standard_normal(d)


def components_of(x, rank):
    return principal_components(x.T @ x, x.sum(axis=0), len(x), rank)


def test_equal_the_singular_vectors_of_the_centred_inputs():
    x = inputs()
    mean, components, variance = components_of(x, 7)
    _, singular, vectors = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(variance, singular**2 / len(x), rtol=1e-10)
    np.testing.assert_allclose(np.abs((components * vectors).sum(axis=1)), 1, rtol=1e-10)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_equal_those_of_scikit_learn(rank):
    x = inputs()
    mean, components, variance = components_of(x, rank)
    oracle = PCA(rank, svd_solver="full").fit(x)
    signs = np.sign((components * oracle.components_).sum(axis=1))
    np.testing.assert_allclose(mean, oracle.mean_, rtol=1e-13)
    np.testing.assert_allclose(components, oracle.components_ * signs[:, None], atol=1e-10)
    np.testing.assert_allclose(variance, oracle.explained_variance_ * (len(x) - 1) / len(x), rtol=1e-10)


@given(seed=SEEDS, d=st.integers(1, 8), tokens=st.integers(1, 30))
def test_components_are_orthonormal_the_largest_first_and_its_largest_entry_is_positive(seed, d, tokens):
    rank = 1 + seed % d
    _, components, variance = components_of(inputs(tokens, d, seed), rank)
    np.testing.assert_allclose(components @ components.T, np.eye(rank), atol=1e-12)
    assert (np.diff(variance) <= 0).all()
    assert (variance >= 0).all()
    largest = np.abs(components).argmax(axis=1)
    assert (components[np.arange(rank), largest] > 0).all()


@given(seed=SEEDS)
def test_flipping_the_inputs_flips_no_component(seed):
    """The sign is that of the component, not of whatever LAPACK returned."""
    x = inputs(seed=seed)
    _, components, _ = components_of(x, 7)
    np.testing.assert_allclose(components_of(-x, 7)[1], components, atol=1e-9)


@given(seed=SEEDS, cut=st.integers(1, 199))
def test_sums_of_two_parts_are_enough(seed, cut):
    x = inputs(seed=seed)
    parts = x[:cut], x[cut:]
    grams, totals = [part.T @ part for part in parts], [part.sum(axis=0) for part in parts]
    together = principal_components(sum(grams), sum(totals), len(x), 3)
    for found, expected in zip(together, components_of(x, 3), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_constant_inputs_have_no_variance():
    mean, components, variance = components_of(np.full((50, 4), 0.1), 2)
    np.testing.assert_allclose(mean, 0.1)
    np.testing.assert_allclose(components @ components.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(variance, 0, atol=1e-15)
    assert (variance >= 0).all()


def test_one_input_is_its_own_component():
    mean, components, variance = components_of(np.array([[1.0], [3.0], [5.0]]), 1)
    assert (mean.tolist(), components.tolist(), variance.tolist()) == ([3.0], [[1.0]], [pytest.approx(8 / 3)])


@pytest.mark.parametrize("rank", [0, -1, 5])
def test_the_rank_is_between_1_and_d(rank):
    with pytest.raises(InputError, match=f"10 tokens of 4 inputs have 1 to 4 principal components; got {rank}"):
        components_of(inputs(10, 4), rank)


def test_no_token_has_no_component():
    with pytest.raises(InputError, match="0 tokens of 4 inputs"):
        components_of(np.empty((0, 4)), 1)
