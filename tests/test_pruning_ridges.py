"""Ridges: those of the default, in closed form and in two steps that are one by hand; one for each expert."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from wncore.backend import get_backend
from wncore.errors import InputError
from wncore.pruning import methods
from wncore.pruning.methods import METHODS, PruneSpec
from wncore.pruning.patterns import SemiStructured, Unstructured, parse_pattern
from wncore.pruning.ridges import HALF, LEAST, ZEROS, Ridges, chosen_ridges, prune_by, removed_energy

RIDGES = (0.01, 0.5, 0.0, 1e-3)


@pytest.fixture(params=["numpy", "numba", "torch"])
def backend(request):
    if request.param == "torch":
        pytest.importorskip("torch")
        return get_backend("torch", device="cpu")
    return get_backend(request.param)


@pytest.fixture
def experts():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 60, 12)) @ rng.standard_normal((12, 12))
    return rng.standard_normal((3, 6, 12)), x.transpose(0, 2, 1) @ x


@pytest.mark.parametrize("s", [0.1, 0.29, 0.5, 0.7, 0.95, 1.0])
def test_the_energy_of_the_smallest_weights_in_closed_form(s):
    q = norm.ppf((1 + s) / 2) if s < 1 else np.inf
    expected = s - (2 * q * norm.pdf(q) if s < 1 else 0)
    assert removed_energy(Unstructured(s)) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (4, 8), (1, 4), (3, 7)])
def test_the_energy_that_groups_lose_as_drawn(kept, of):
    squares = np.sort(np.random.default_rng(0).standard_normal((200_000, of)) ** 2, axis=1)
    expected = squares[:, : of - kept].sum() / squares.sum()
    assert removed_energy(SemiStructured(kept, of)) == pytest.approx(expected, rel=0.01)


def test_extremes():
    assert removed_energy(SemiStructured(4, 4)) == removed_energy(Unstructured(0.0)) == 0
    assert removed_energy(Unstructured((0.2, 0.8))) == removed_energy(Unstructured(0.5))
    assert chosen_ridges(Unstructured(0.0), [0.0]).weights == HALF
    assert chosen_ridges(Unstructured(1.0), [0.0]).weights == LEAST


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted), st.floats(0, 1))
def test_more_zeros_have_smaller_ridges_and_noise_has_none_below_it(shares, noise):
    fewer, more = (chosen_ridges(Unstructured(share), [noise]) for share in shares)
    assert more.weights[0] <= fewer.weights[0] <= max(HALF, noise)
    for one in (fewer, more):
        assert one.weights[0] >= noise
        assert one.zeros[0] == max(ZEROS, one.weights[0])


def test_groups_are_harder_than_the_same_share_anywhere():
    free, eight, four = (chosen_ridges(parse_pattern(text), [0.0]).weights[0] for text in ("0.5", "4:8", "2:4"))
    assert free > eight > four


def solved(w, h, ridge, kept):
    """Least squares for the kept weights of one row, by the damped normal equations."""
    damped, out = h + ridge * np.diag(h.diagonal()), np.zeros_like(w)
    out[kept] = np.linalg.solve(damped[np.ix_(kept, kept)], damped[kept] @ w)
    return out


@pytest.mark.parametrize("method", METHODS)
def test_zeros_by_one_ridge_and_weights_by_another(backend, experts, method):
    w, h = experts
    ridges = Ridges(np.array([0.2, 0.5, 0.3]), np.array([0.05, 0.5, 0.01]))
    spec = PruneSpec((Unstructured(0.5),), method)
    weights, used, raised = prune_by(backend, backend.asarray(w, "float64"), h, spec, [ridges])
    assert (used[0].tolist(), raised[0].tolist()) == ([0.05, 0.5, 0.01], [0, 0, 0])
    for k, found in enumerate(backend.to_numpy(weights[0])):
        once = PruneSpec((Unstructured(0.5),), method, ridge=float(ridges.zeros[k]), resolve=False)
        kept = methods.prune(w[k : k + 1], h[k : k + 1], once)[0][0, 0] != 0
        np.testing.assert_array_equal(found != 0, kept)
        for row, mask, one in zip(w[k], kept, found, strict=True):
            np.testing.assert_allclose(one, solved(row, h[k], ridges.weights[k], mask), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"resolve": False}, {"bits": 4, "resolve": False}], ids=str)
def test_one_ridge_is_pruning_with_it(backend, experts, options):
    w, h = experts
    spec = PruneSpec((Unstructured(0.5),), ridge=0.1, **options)
    two = Ridges(np.full(3, 0.1), np.full(3, 0.1 if spec.resolved else 0.02))  # without a second step the first counts
    native = backend.asarray(w, "float32")
    found, used, _ = prune_by(backend, native, h, spec, [two])
    expected = backend.to_numpy(backend.prune(native, backend.asarray(h, "float64"), spec)[0])
    np.testing.assert_array_equal(backend.to_numpy(found[0]), expected[0])
    assert used[0].tolist() == [0.1] * 3


def test_a_sweep_is_each_pattern_alone(backend, experts):
    w, h = experts
    patterns = [parse_pattern(text) for text in ("0.5", "0.7", "2:4", "0", "1")]
    ridges, native = [chosen_ridges(one, np.full(3, 0.02)) for one in patterns], backend.asarray(w, "float32")
    together = prune_by(backend, native, h, PruneSpec(tuple(patterns)), ridges)
    for i, (pattern, one) in enumerate(zip(patterns, ridges, strict=True)):
        alone = prune_by(backend, native, h, PruneSpec((pattern,)), [one])
        np.testing.assert_array_equal(backend.to_numpy(together[0][i]), backend.to_numpy(alone[0][0]))
        np.testing.assert_array_equal(together[1][i], alone[1][0])
    np.testing.assert_array_equal(backend.to_numpy(together[0][3]), w.astype(np.float32))
    assert not backend.to_numpy(together[0][4]).any()


def test_a_ridge_that_was_raised_is_that_of_the_weights(backend):
    h = np.ones((1, 4, 4))
    w = np.arange(1.0, 9).reshape(1, 2, 4)
    ridges = Ridges(np.zeros(1), np.zeros(1))
    _, used, raised = prune_by(backend, backend.asarray(w, "float64"), h, PruneSpec((Unstructured(0.5),)), [ridges])
    assert used[0][0] > 0
    assert raised[0][0] > 0


def prune(backend, w, h, spec):
    native = backend.asarray(w, "float32"), backend.asarray(h, "float64")
    return tuple(map(backend.to_numpy, backend.prune(*native, spec)))


@pytest.fixture
def experts_apart():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((len(RIDGES), 40, 9)) @ rng.standard_normal((9, 9))
    x[2, :, 1] = x[2, :, 0]  # the ridge of 0 has to be raised
    return rng.standard_normal((len(RIDGES), 5, 9)), x.transpose(0, 2, 1) @ x


@pytest.mark.parametrize("method", METHODS)
def test_experts_with_ridges_of_their_own_are_experts_pruned_alone(backend, experts_apart, method):
    w, h = experts_apart
    spec = PruneSpec((Unstructured(0.5),), method, ridge=RIDGES)
    weights, ridge, raised = prune(backend, w, h, spec)
    for k, asked in enumerate(RIDGES):
        alone, *its = prune(backend, w[k : k + 1], h[k : k + 1], replace(spec, ridge=asked))
        np.testing.assert_allclose(weights[:, k : k + 1], alone, rtol=1e-5, atol=1e-6)
        assert [ridge[k], raised[k]] == [*its[0], *its[1]]
    assert (ridge.tolist(), raised.tolist()) == ([0.01, 0.5, 1e-8, 1e-3], [0, 0, 1, 0])


def test_one_ridge_is_the_same_for_each(backend, experts_apart):
    spec = PruneSpec((Unstructured(0.5),), ridge=0.1)
    for one, many in zip(
        prune(backend, *experts_apart, spec),
        prune(backend, *experts_apart, replace(spec, ridge=(0.1,) * 4)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, many)


def test_there_must_be_a_ridge_for_each_expert(backend, experts_apart):
    with pytest.raises(InputError, match="there are 3 ridges for 4 experts; give one for each, or a number for all"):
        prune(backend, *experts_apart, PruneSpec((Unstructured(0.5),), ridge=RIDGES[:3]))


@pytest.mark.parametrize("ridge", [(0.1, -0.1), (np.nan, 0.1), (0.1, np.inf)])
def test_every_ridge_is_a_positive_number_or_0(ridge):
    with pytest.raises(InputError, match="a ridge is a positive number, or 0"):
        PruneSpec((Unstructured(0.5),), ridge=ridge)
