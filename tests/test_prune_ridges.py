"""Each expert may have a ridge of its own."""

from dataclasses import replace

import numpy as np
import pytest

from wncore.backend import get_backend
from wncore.errors import InputError
from wncore.pruning.methods import METHODS, PruneSpec
from wncore.pruning.patterns import Unstructured

RIDGES = (0.01, 0.5, 0.0, 1e-3)


@pytest.fixture(params=["numpy", "numba", "torch"])
def backend(request):
    if request.param == "torch":
        pytest.importorskip("torch")
        return get_backend("torch", device="cpu")
    return get_backend(request.param)


def prune(backend, w, h, spec):
    native = backend.asarray(w, "float32"), backend.asarray(h, "float64")
    return tuple(map(backend.to_numpy, backend.prune(*native, spec)))


@pytest.fixture
def experts():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((len(RIDGES), 40, 9)) @ rng.standard_normal((9, 9))
    x[2, :, 1] = x[2, :, 0]  # the ridge of 0 has to be raised
    return rng.standard_normal((len(RIDGES), 5, 9)), x.transpose(0, 2, 1) @ x


@pytest.mark.parametrize("method", METHODS)
def test_experts_with_ridges_of_their_own_are_experts_pruned_alone(backend, experts, method):
    w, h = experts
    spec = PruneSpec((Unstructured(0.5),), method, ridge=RIDGES)
    weights, ridge, raised = prune(backend, w, h, spec)
    for k, asked in enumerate(RIDGES):
        alone, *its = prune(backend, w[k : k + 1], h[k : k + 1], replace(spec, ridge=asked))
        np.testing.assert_allclose(weights[:, k : k + 1], alone, rtol=1e-5, atol=1e-6)
        assert [ridge[k], raised[k]] == [*its[0], *its[1]]
    assert (ridge.tolist(), raised.tolist()) == ([0.01, 0.5, 1e-8, 1e-3], [0, 0, 1, 0])


def test_one_ridge_is_the_same_for_each(backend, experts):
    spec = PruneSpec((Unstructured(0.5),), ridge=0.1)
    for one, many in zip(
        prune(backend, *experts, spec), prune(backend, *experts, replace(spec, ridge=(0.1,) * 4)), strict=True
    ):
        np.testing.assert_array_equal(one, many)


def test_there_must_be_a_ridge_for_each_expert(backend, experts):
    with pytest.raises(InputError, match="there are 3 ridges for 4 experts; give one for each, or a number for all"):
        prune(backend, *experts, PruneSpec((Unstructured(0.5),), ridge=RIDGES[:3]))


@pytest.mark.parametrize("ridge", [(0.1, -0.1), (np.nan, 0.1), (0.1, np.inf)])
def test_every_ridge_is_a_positive_number_or_0(ridge):
    with pytest.raises(InputError, match="a ridge is a positive number, or 0"):
        PruneSpec((Unstructured(0.5),), ridge=ridge)
