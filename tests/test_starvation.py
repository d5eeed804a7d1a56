"""What starved clusters borrow: the limits of the weight, positive matrices, ridges, and one cluster to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS

from wncore.experts.starvation import expert_ridges, own_share, shrink, starved
from wncore.pruning.damping import chosen_ridge

counts = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any)
shares = st.floats(0, 1)


def clusters_of(tokens, d=5, seed=0):
    """The tokens of each cluster, (n_c, d) with a mean of its own, and their Gram matrices."""
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((count, d)) + 2 * rng.standard_normal(d) for count in tokens]
    return parts, np.array([part.T @ part for part in parts])


# ---- Gram matrices


@given(tokens=st.integers(1, 50), seed=SEEDS, own=shares)
def test_one_cluster_keeps_every_bit(tokens, seed, own):
    _, grams = clusters_of([tokens], seed=seed)
    np.testing.assert_array_equal(shrink(grams, [tokens], [own]), grams)


@given(tokens=counts, seed=SEEDS)
def test_all_of_its_own_is_its_own_to_the_bit(tokens, seed):
    _, grams = clusters_of(tokens, seed=seed)
    np.testing.assert_array_equal(shrink(grams, tokens, np.ones(len(tokens))), grams)


@given(tokens=counts, seed=SEEDS)
def test_nothing_of_its_own_is_the_mean_of_all_tokens(tokens, seed):
    parts, grams = clusters_of(tokens, seed=seed)
    x = np.concatenate(parts)
    found = shrink(grams, tokens, np.zeros(len(tokens)))
    expected = [max(count, 1) * (x.T @ x) / len(x) for count in tokens]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@given(tokens=counts, seed=SEEDS, data=st.data())
def test_it_is_the_weighted_mean_per_token(tokens, seed, data):
    """Token by token: the cluster's own with weight `own` / n_c each, all of the layer's with (1 - `own`) / n."""
    parts, grams = clusters_of(tokens, seed=seed)
    x, n = np.concatenate(parts), sum(tokens)
    own = data.draw(st.lists(shares, min_size=len(tokens), max_size=len(tokens)), label="own")
    own = np.where(np.array(tokens) == 0, 0.0, own)
    for found, part, count, share in zip(shrink(grams, tokens, own), parts, tokens, own, strict=True):
        weighted = sum(share / count * np.outer(t, t) for t in part) if count else 0.0
        weighted = weighted + sum((1 - share) / n * np.outer(t, t) for t in x)
        np.testing.assert_allclose(found, max(count, 1) * weighted, rtol=1e-10, atol=1e-10)


@given(tokens=counts, seed=SEEDS, own=shares)
def test_positive_semidefinite_stays_so(tokens, seed, own):
    _, grams = clusters_of(tokens, seed=seed)
    for found in shrink(grams, tokens, np.full(len(tokens), own)):
        assert np.linalg.eigvalsh((found + found.T) / 2)[0] >= -1e-10 * (1 + found.trace())
        np.testing.assert_allclose(found, found.T, rtol=1e-12)


def test_an_empty_cluster_is_the_whole_layer_and_not_zero():
    parts, grams = clusters_of([30, 0, 10])
    x = np.concatenate(parts)
    own = own_share([30, 0, 10], 5, prior=0.25)
    np.testing.assert_allclose(shrink(grams, [30, 0, 10], own)[1], x.T @ x / 40, rtol=1e-12)


# ---- weights


@given(tokens=st.lists(st.integers(0, 10**6), min_size=1, max_size=6), d=st.integers(1, 5000), prior=st.floats(0, 100))
def test_the_share_is_that_of_the_tokens_seen_and_borrowed(tokens, d, prior):
    found = own_share(tokens, d, prior)
    for share, count in zip(found, tokens, strict=True):
        assert share == (0 if count == 0 else pytest.approx(count / (count + prior * d), rel=1e-12))
    order = np.argsort(tokens)
    assert (np.diff(found[order]) >= 0).all()


def test_without_a_prior_every_cluster_that_has_tokens_stands_alone():
    np.testing.assert_array_equal(own_share([5, 0, 1000], 64, 0.0), [1, 0, 1])


# ---- ridges


@given(tokens=st.integers(1, 10**6), d=st.integers(1, 5000), own=shares)
def test_one_cluster_gets_the_ridge_of_plain_pruning_to_the_bit(tokens, d, own):
    assert expert_ridges([tokens], d, [own]).tolist() == [chosen_ridge(tokens, d)]


@given(tokens=counts, d=st.integers(1, 300), data=st.data())
def test_ridges_lie_between_those_of_the_cluster_and_of_all(tokens, d, data):
    own = data.draw(st.lists(shares, min_size=len(tokens), max_size=len(tokens)), label="own")
    found = expert_ridges(tokens, d, own)
    assert ((found >= 0.01) & (found <= 1)).all()
    for ridge, count in zip(found, tokens, strict=True):
        assert chosen_ridge(sum(tokens), d) - 1e-12 <= ridge <= chosen_ridge(count, d) + 1e-12
    np.testing.assert_allclose(expert_ridges(tokens, d, np.zeros(len(tokens))), chosen_ridge(sum(tokens), d))
    np.testing.assert_allclose(expert_ridges(tokens, d, np.ones(len(tokens))), [chosen_ridge(n, d) for n in tokens])


@pytest.mark.parametrize("own", [0.0, 0.3, 1.0])
def test_the_ridge_is_by_the_variance_of_the_mixture(own):
    """Tokens of variance 1: own times the mean of 400 of them and (1 - own) that of all 4000, drawn often."""
    rng, d = np.random.default_rng(0), 40
    tokens = rng.standard_normal((4000, 2000))
    means = own * tokens[:400].mean(axis=0) + (1 - own) * tokens.mean(axis=0)
    found = expert_ridges([400, 3600], d, [own, 0.0])[0]
    assert found == pytest.approx(d * means.var(), rel=0.15)  # five deviations of a variance of 2000 numbers


# ---- merging


def test_the_smallest_is_starved_unless_it_is_alone():
    assert starved(np.array([20, 3, 7]), least=8) == 1
    assert starved(np.array([20, 3, 7]), least=3) is None
    assert starved(np.array([20, 0, 0]), least=1) == 1
    assert starved(np.array([2]), least=8) is None
