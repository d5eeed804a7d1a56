"""What one call expands: lists of numbers, the number that helps, controls; and what it refuses."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from strategies import BACKENDS
from strategies_experts import clustered, dump_of, expanded, expanded_one, weights

from wncore.errors import InputError, MemoryBudgetError, NonFiniteError, ShapeError
from wncore.experts.expansion import AUTO, ExpandSpec
from wncore.experts.fitting import ClusterSpec
from wncore.experts.layers import check_expandable, expand_layers
from wncore.experts.pruned import experts_at_once
from wncore.experts.runs import thinned
from wncore.layers.activations import open_layer, open_layers
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import Unstructured
from wncore.wasserstein import gaussian_distance

NUMPY, NUMBA = BACKENDS
backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
HALF = PruneSpec((Unstructured(0.5),))


@pytest.fixture
def layer(tmp_path):
    return dump_of(tmp_path, {"input": clustered()[0], "weight": weights()})["l"]


# ---- runs


def test_runs_come_by_number_then_pattern_and_controls_follow_their_number(layer):
    (runs,) = expanded([layer], NUMBA, (4, 1, 2), "0.5,0.75", controls=True)
    found = [(run.asked, run.control, str(run.pattern)) for run in runs]
    of = {1: [(1, None, "0.5"), (1, None, "0.75")]}
    for k, sparsities in ((2, ("0.75", "0.875")), (4, ("0.875", "0.9375"))):
        of[k] = [(k, None, "0.5"), (k, None, "0.75"), (k, "random", "0.5"), (k, "random", "0.75")]
        of[k] += [(k, "stored", sparsity) for sparsity in sparsities]
    assert found == of[4] + of[1] + of[2]
    for run in runs:
        alone = expanded([layer], NUMBA, run.asked, "0.5,0.75", controls=True)[0]
        (same,) = [one for one in alone if (one.control, one.pattern) == (run.control, run.pattern)]
        assert run.weights.tobytes() == same.weights.tobytes()
        np.testing.assert_array_equal(run.relative_improvement, same.relative_improvement)


def test_distances_are_scored_only_if_asked_for(layer):
    (runs,) = expanded([layer], NUMBA, (1, 4), wasserstein=True, pairs=500)
    assert all(run.dense is runs[0].dense and len(run.disentanglement.wasserstein_weighted) == 8 for run in runs)
    x, many = clustered()[0], runs[1]
    parts = [(x[many.labels == c] @ expert.T, np.mean(many.labels == c)) for c, expert in enumerate(many.weights)]
    weighted = sum(share * gaussian_distance(outputs) for outputs, share in parts)
    np.testing.assert_allclose(many.disentanglement.wasserstein_weighted, weighted, rtol=1e-4)
    (runs,) = expanded([layer], NUMBA, (1, 4))
    assert all(run.dense is None and run.disentanglement is None for run in runs)


def test_each_layer_by_a_spec_of_its_own(tmp_path):
    tensors = {"up.input": clustered()[0], "up.weight": weights(), "gate.weight": weights(5)}
    gate, up = dump_of(tmp_path, tensors, shared_inputs={"gate": "up"}).values()
    specs = [ExpandSpec((3,), replace(HALF, patterns=(Unstructured(s),))) for s in (0.25, 0.75)]
    found = [run for (run,) in expand_layers(open_layers([gate, up], NUMBA), specs, wasserstein=False)]
    assert [run.zeros.tolist() for run in found] == [[15] * 3, [72] * 3]
    assert found[0].router is found[1].router


# ---- how many


def least_held_out(layers, backend, clusters):
    """Doubled while the mean held-out error falls, from a run for each number."""
    numbers, tokens = [1], 270
    while 2 * numbers[-1] <= tokens // clusters.least_tokens:
        numbers.append(2 * numbers[-1])
    errors = []
    for k in numbers:
        runs = expanded(layers, backend, k, "0.7", clusters=clusters)
        errors.append(np.mean([run.errors.relative_error_holdout for (run,) in runs]))
    k = 0
    while k + 1 < len(numbers) and errors[k + 1] < errors[k]:
        k += 1
    return numbers[k]


@pytest.mark.parametrize("blobs", [1, 2, 4, 8])
@pytest.mark.parametrize("least", [8, 40])
def test_auto_doubles_while_the_held_out_error_falls(tmp_path, blobs, least):
    tensors = {"up.input": clustered(blobs=blobs)[0], "up.weight": weights(), "gate.weight": weights(5, seed=3)}
    layers = list(dump_of(tmp_path, tensors, shared_inputs={"gate": "up"}).values())
    clusters = ClusterSpec(least_tokens=least)
    expected = least_held_out(layers, NUMBA, clusters)
    for runs in expanded(layers, NUMBA, AUTO, "0.7", clusters=clusters):
        assert [run.asked for run in runs] == [expected]
        same = expanded([layers[0]], NUMBA, expected, "0.7", clusters=clusters)[0][0]
        assert runs[0].router.centroids.tobytes() == same.router.centroids.tobytes()


def test_auto_finds_that_experts_help_and_that_they_do_not(tmp_path):
    rng = np.random.default_rng(0)
    mixing, labels = rng.standard_normal((4, 12, 12)), rng.integers(4, size=2000)
    x = np.einsum("ni,nij->nj", rng.standard_normal((2000, 12)), mixing[labels])
    x[:, 0] += 40 * labels
    for name, inputs, least, most in (("four", x, 4, 1024), ("none", rng.standard_normal((2000, 12)), 1, 2)):
        layer = dump_of(tmp_path / name, {"input": inputs, "weight": weights()})["l"]
        assert least <= expanded_one(layer, NUMBA, AUTO, "0.7").asked <= most


def test_auto_needs_tokens_that_judge(layer):
    with pytest.raises(InputError, match="found by the error on tokens held out; give --holdout, or a number"):
        expanded([layer], NUMBA, AUTO, holdout=0)


def test_clusters_that_were_merged_are_counted_and_pointed_out(layer):
    run = expanded_one(layer, NUMBA, 16, clusters=ClusterSpec(least_tokens=40))
    assert run.asked == 16
    left = len(run.weights)
    assert run.merged == 16 - left > 0
    assert run.tokens_per_expert.min() >= 40
    says = f"{run.merged} of 16 clusters had fewer than 40 tokens or none and were merged; {left} left"
    assert run.warnings[0] == says


def test_starved_experts_and_raised_ridges_are_pointed_out(tmp_path):
    x, _ = clustered(200, 24)
    x[:, 7] = x[:, 5]
    layer = dump_of(tmp_path, {"input": x, "weight": weights(8, 24)})["l"]
    run = expanded_one(layer, NUMBA, 12, clusters=ClusterSpec(least_tokens=2), ridge=0.0)
    k, smallest = len(run.zeros), run.tokens_per_expert.min()
    few, raised = np.count_nonzero(run.tokens_per_expert < 24), np.count_nonzero(run.raised)
    assert few > 0
    assert run.warnings[-2] == (
        f"{few} of {k} have fewer tokens than there are inputs (24); the smallest has {smallest}, "
        f"which borrows {6 / (smallest + 6):.0%} of its Gram matrix"
    )
    assert run.warnings[-1] == f"the ridge of {raised} of {k} had to be raised"
    assert expanded_one(layer, NUMBA, 1).warnings == []


# ---- controls


def test_the_stored_control_stores_as_much_as_one_expert(layer):
    one, many, _, stored = expanded([layer], NUMBA, (1, 4), "0.6", controls=True)[0]
    assert stored.control == "stored"
    assert many.stored == 4 * one.stored
    assert one.stored <= stored.stored < one.stored + 4  # a remainder in each expert
    np.testing.assert_array_equal(stored.labels, many.labels)
    assert stored.experts is not None


def test_random_clusters_are_equal_and_cannot_be_routed_to(layer):
    _, random, _ = expanded([layer], NUMBA, 4, controls=True)[0]
    assert random.control == "random"
    assert (random.router, random.experts, random.inertia, random.merged) == (None, None, None, 0)
    assert np.ptp(random.tokens_per_expert) <= 1
    assert np.ptp(random.holdout_per_expert) <= 1


def test_of_a_pattern_no_part_is_taken(layer):
    assert [run.control for run in expanded([layer], NUMBA, 4, "2:4", controls=True)[0]] == [None, "random"]
    runs = expanded([layer], NUMBA, 4, "2:4,0.5", controls=True)[0]
    assert [run.control for run in runs] == [None, None, "random", "random", "stored"]
    assert [str(run.pattern) for run in runs] == ["2:4", "0.5", "2:4", "0.5", "0.875"]
    one = expanded_one(layer, NUMBA, 1, "0.5")
    ratio = np.sqrt(one.errors.neuron_error / runs[-1].errors.neuron_error)
    np.testing.assert_allclose(runs[-1].relative_improvement, ratio, rtol=1e-6)
    assert [run.control for run in expanded([layer], NUMBA, 1, controls=True)[0]] == [None]


def test_thinned_sparsities():
    assert thinned(Unstructured(0.8), 16) == Unstructured(1 - 0.2 / 16)
    assert thinned(Unstructured((0.0, 1.0, 0.5)), 2) == Unstructured((0.5, 1.0, 0.75))
    assert thinned(Unstructured(0.3), 1).sparsity == pytest.approx(0.3)


# ---- the forward pass


TOLERANCE = ({"rtol": 1e-4, "atol": 1e-4}, {"rtol": 1e-12, "atol": 1e-12})


@backends
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", ml_dtypes.bfloat16])
def test_the_forward_pass_is_a_loop_over_tokens(tmp_path, backend, bias, dtype):
    x, w = clustered(dtype=dtype)[0], weights(dtype=dtype)
    b = np.random.default_rng(9).standard_normal(8).astype(dtype)
    layer = dump_of(tmp_path, {"input": x, "weight": w} | ({"bias": b} if bias else {}))["l"]
    run = expanded_one(layer, backend, 4, "0.5")
    wide = run.weights.astype(np.float64)
    offset = b.astype(np.float64) if bias else 0.0
    expected = np.array([wide[c] @ token.astype(np.float64) + offset for token, c in zip(x, run.labels, strict=True)])
    found = run.experts.forward(x.reshape(10, 30, 12), backend)
    assert found.shape == (10, 30, 8)
    np.testing.assert_allclose(found.reshape(300, 8), expected, **TOLERANCE[dtype == "float64"])


def test_inputs_of_another_width_are_refused(layer):
    experts = expanded_one(layer, NUMBA, 2).experts
    with pytest.raises(ShapeError, match=r"l takes inputs \(\.\.\., 12\); got \(3, 5\), give it the layer's own"):
        experts.forward(np.zeros((3, 5)))


# ---- what is refused


@pytest.mark.parametrize(
    ("experts", "prior", "says"),
    [
        ((), 0.25, r"counted from 1, or found automatically; got \(\)"),
        ((-1,), 0.25, r"got \(-1,\)"),
        ((AUTO, 4), 0.25, r"got \(0, 4\)"),
        ((4,), -0.1, "the prior is a positive number, or 0; got -0.1"),
        ((4,), float("nan"), "got nan"),
        ((4,), float("inf"), "got inf"),
    ],
)
def test_what_cannot_be_asked_for(experts, prior, says):
    with pytest.raises(InputError, match=says):
        ExpandSpec(experts, HALF, prior=prior)


@pytest.mark.parametrize("lost", ["input", "weight"])
def test_a_layer_needs_inputs_and_weights(layer, lost):
    with pytest.raises(InputError, match="l has no input or no weight; both are needed to cluster tokens and to prune"):
        expanded([replace(layer, **{lost: None})], NUMBA)


def test_experts_that_do_not_fit_into_memory_are_refused_before_any_work(layer):
    with pytest.raises(MemoryBudgetError, match="l: 5000 experts of 8 neurons and 12 inputs take about 29 MiB"):
        experts_at_once(open_layer(layer, NUMBA, memory=2**20), HALF.patterns, 5000)
    spec = ExpandSpec((1, 100, 200), HALF, controls=True)
    check_expandable(open_layer(layer, NUMBA, memory=2**21), spec, spool=True)
    with pytest.raises(MemoryBudgetError, match="l: 200 experts"):  # all that wait in memory are counted
        check_expandable(open_layer(layer, NUMBA, memory=2**20), spec)
    spec = ExpandSpec((2,), PruneSpec((Unstructured((0.5, 0.5)),), group="row"))
    with pytest.raises(ShapeError, match="there are 2 sparsities for 8 neurons"):
        check_expandable(open_layer(layer, NUMBA), spec)


@pytest.mark.parametrize("k", [1, 7, 64])
def test_what_is_said_to_fit_does(layer, k):
    """The memory that the message names is enough, and a MiB less is not."""
    with pytest.raises(MemoryBudgetError) as told:
        experts_at_once(open_layer(layer, NUMBA, memory=2**18), HALF.patterns, 4000 * k)
    enough = int(str(told.value).split("--memory ")[1].split("MiB")[0]) * 2**20
    assert experts_at_once(open_layer(layer, NUMBA, memory=enough), HALF.patterns, 4000 * k) >= 1
    with pytest.raises(MemoryBudgetError):
        experts_at_once(open_layer(layer, NUMBA, memory=enough - 2**20), HALF.patterns, 4000 * k)
    assert experts_at_once(open_layer(layer, NUMBA), HALF.patterns, k) == k


def test_more_experts_than_calibration_tokens_are_refused(layer):
    with pytest.raises(InputError, match="270 tokens form 1 to 270 clusters; got 271"):
        expanded([layer], NUMBA, 271)


def test_weights_that_leave_their_dtype_are_an_error(tmp_path):
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((64, 1)), 2, axis=1) + 1e-6 * rng.standard_normal((64, 2))
    layer = dump_of(tmp_path, {"input": x, "weight": np.full((1, 2), 6e4, np.float16)})["l"]
    with pytest.raises(NonFiniteError, match="l: pruned weights overflow F16; store the weights in a wider dtype"):
        expanded([layer], NUMBA, 2)


def test_weights_that_are_not_finite_are_named(tmp_path):
    w = weights()
    w[3, 4] = np.nan
    layer = dump_of(tmp_path, {"input": clustered()[0], "weight": w})["l"]
    with pytest.raises(NonFiniteError, match=r"l\.weight holds NaN or infinity: 1 of its 96 values"):
        expanded([layer], NUMBA, 2)


@pytest.mark.parametrize("pattern", ["1:2", "0.5"])
def test_dead_inputs_and_a_bias_do_no_harm(tmp_path, pattern):
    x = clustered()[0]
    x[:, 3] = 0
    layer = dump_of(tmp_path, {"input": x, "weight": weights(), "bias": np.arange(8.0)})["l"]
    run = expanded_one(layer, NUMBA, 4, pattern)
    assert np.isfinite(run.weights).all()
    np.testing.assert_array_equal(run.experts.bias, np.arange(8.0))
    if pattern == "0.5":
        assert not run.weights[:, :, 3].any()  # they cost nothing, and go first
    np.testing.assert_array_equal(run.zeros, 48)
