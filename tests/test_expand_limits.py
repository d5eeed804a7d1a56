"""What experts do when memory, tokens or their inputs fall short."""

from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
from strategies import BACKENDS
from strategies_experts import clustered, dump_of, expanded, expanded_one, weights

from wncore.errors import MemoryBudgetError, NonFiniteError, ShapeError, WncoreError
from wncore.experts.expansion import AUTO
from wncore.experts.fitting import ClusterSpec
from wncore.experts.pruned import experts_at_once
from wncore.files import spool
from wncore.layers.activations import open_layer
from wncore.pruning.patterns import Unstructured

NUMBA = BACKENDS[1]


@pytest.fixture
def layer(tmp_path):
    return dump_of(tmp_path, {"input": clustered()[0], "weight": weights()})["l"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_what_is_spooled_is_what_it_was_and_leaves_no_file(tmp_path, dtype):
    array = np.random.default_rng(0).standard_normal((5, 3, 7)).astype(dtype)
    waiting = spool(array[:, ::-1], tmp_path)
    assert waiting.dtype == array.dtype
    assert waiting.tobytes() == array[:, ::-1].tobytes()
    assert not waiting.flags.writeable
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_room_is_named(tmp_path):
    with pytest.raises(WncoreError, match="has no room for weights that wait to be saved: No such file"):
        spool(np.zeros((1, 1, 1)), tmp_path / "none")


def test_experts_are_the_same_where_they_wait(layer, tmp_path):
    """In memory or on the disk, with their controls."""
    here = expanded([layer], NUMBA, 4, controls=True)[0]
    there = expanded([layer], NUMBA, 4, controls=True, spool=tmp_path)[0]
    assert all(isinstance(run.weights, np.memmap) for run in there)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.weights, other.weights)


def test_auto_ends_where_memory_does(tmp_path):
    """It returns what it found, and says what it could not try."""
    layer = dump_of(tmp_path, {"input": clustered(600)[0], "weight": weights()})["l"]
    whole = expanded_one(layer, NUMBA, AUTO)
    assert whole.asked > 2
    assert [k for k, _ in whole.tried] == [2**i for i in range(len(whole.tried))]
    assert min(whole.tried, key=lambda pair: pair[1])[0] == whole.asked
    memory = next(size for size in range(2**12, 2**20, 2**10) if _largest(layer, size) == 2)
    short = expanded_one(layer, NUMBA, AUTO, memory=memory)
    assert short.asked == 2
    assert short.tried[:2] == whole.tried[:2]
    assert short.tried[2][0] == 4
    assert np.isnan(short.tried[2][1])
    assert "4 experts do not fit into the memory that is allowed, and were not tried" in short.warnings


def _largest(layer, memory):
    """The most of 1, 2 and 4 experts that fit."""
    fitting = [0]
    for k in (1, 2, 4):
        with suppress(MemoryBudgetError):
            experts_at_once(open_layer(layer, NUMBA, memory=memory), (Unstructured(0.5),), k)
            fitting.append(k)
    return max(fitting)


def test_clusters_that_could_not_be_made_equal_are_pointed_out(tmp_path):
    """Half of the tokens are one point: no price divides them."""
    x = clustered()[0]
    x[::2] = x[0]
    layer = dump_of(tmp_path / "uneven", {"input": x, "weight": weights()})["l"]
    run = expanded_one(layer, NUMBA, 4, clusters=ClusterSpec(balanced=True, least_tokens=1))
    sizes = run.tokens_per_expert
    assert f"clusters could not be made equal: {sizes.min()} to {sizes.max()} tokens" in run.warnings[-1]
    even = expanded_one(dump_of(tmp_path / "even", {"input": clustered()[0], "weight": weights()})["l"], NUMBA, 2)
    assert not any("equal" in warning for warning in even.warnings)


def test_random_clusters_are_as_many_as_were_left(layer):
    run, random, _ = expanded([layer], NUMBA, 16, controls=True, clusters=ClusterSpec(least_tokens=40))[0]
    assert run.merged > 0
    assert len(random.weights) == len(run.weights)


def test_inertia_is_that_of_the_clusters_there_are(layer):
    """After merging and pricing, by the labels themselves."""
    for clusters in (ClusterSpec(least_tokens=40), ClusterSpec(balanced=True)):
        run = expanded_one(layer, NUMBA, 8, clusters=clusters)
        x = clustered()[0][: run.tokens_per_expert.sum()]
        z = (x - run.router.mean) @ run.router.components.astype(np.float64).T
        labels = run.labels[: len(x)]
        within = sum(np.square(z[labels == c] - z[labels == c].mean(axis=0)).sum() for c in range(len(run.zeros)))
        assert run.inertia == pytest.approx(within / np.square(z - z.mean(axis=0)).sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (np.nan, NonFiniteError, "an input is NaN or infinite in float32"),
        (1e60, NonFiniteError, "an input is NaN or infinite in float32"),
        (1j, ShapeError, "takes real numbers; got complex128"),
        ("a", ShapeError, "takes real numbers; got <U1"),
    ],
)
def test_inputs_that_no_expert_can_have(layer, bad, error, says):
    experts = expanded_one(layer, NUMBA, 2).experts
    with pytest.raises(error, match=says):
        experts.forward(np.full((2, experts.weights.shape[2]), bad))
