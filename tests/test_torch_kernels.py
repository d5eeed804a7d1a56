"""Triton's kernels of distances and routed products against the definitions, in Triton's interpreter."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from wncore.histograms import choose_edges, coarsen, histogram
from wncore.layers.pieces import TreeSum
from wncore.testing.contracts import BOUNDS, CONTRACTS

torch = pytest.importorskip("torch", reason="torch is not installed")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPERATIONS = {"gaussian_distance": "distance", "routed_linear": "routing"}
CONTRACT = {contract.operation: contract for contract in CONTRACTS if contract.operation in OPERATIONS}
CHOICES = {
    "gaussian_distance": [
        *({"tokens": n, "neurons": m} for n, m in [(1, 3), (2, 1), (31, 2), (33, 1), (257, 3), (1025, 2)]),
        {"tokens": 300, "neurons": 4, "constant": True},
        {"tokens": 257, "neurons": 2, "kind": "tied"},
        {"tokens": 257, "neurons": 2, "kind": "outlier", "offset": 1e3},
    ],
    "routed_linear": [
        *({"tokens": n, "neurons": m} for n, m in [(0, 3), (1, 1), (2, 129), (31, 33), (33, 16), (257, 17)]),
        {"tokens": 257, "neurons": 130, "inputs": 130, "experts": 5, "asked": [1, 3]},
        {"tokens": 33, "neurons": 3, "inputs": 1, "experts": 5, "asked": [4], "bias": False},
        {"tokens": 33, "neurons": 3, "experts": 1},
    ],
}
CASES = [(operation, choices) for operation, several in CHOICES.items() for choices in several]


def test_kernels_in_the_interpreter():
    """In a process of their own, since Triton is interpreted from its import on."""
    pytest.importorskip("triton", reason="triton is not installed")
    if INTERPRETED:
        pytest.skip("this is the interpreter")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "interpreted"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout


interpreted = pytest.mark.skipif(not INTERPRETED, reason="test_kernels_in_the_interpreter runs it")


@pytest.fixture
def kernels(monkeypatch):
    """The operations by name; the interpreter takes NumPy's arrays of one number for integers, as NumPy once did."""
    from triton.runtime import interpreter

    from wncore_torch.kernels import distance, routing

    patch = interpreter._patch_lang_tensor

    def patch_index(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_index)
    monkeypatch.setattr(distance, "RUN", 128)  # so that there are several steps
    monkeypatch.setattr(distance, "STEP", 64)
    monkeypatch.setattr(routing, "TOKENS", 16)
    modules = {"gaussian_distance": distance, "routed_linear": routing}
    return {operation: getattr(module, operation) for operation, module in modules.items()}


def native(arguments, dtype, lay=lambda tensor: tensor):
    """The arguments as tensors, floats in the dtype; `lay` may lay the floats out anew."""
    tensors = {name: value if value is None else torch.from_numpy(value) for name, value in arguments.items()}
    floats = {name: value is not None and value.is_floating_point() for name, value in tensors.items()}
    return {name: lay(value.to(dtype)) if floats[name] else value for name, value in tensors.items()}


def check(operation, found, arguments, dtype):
    """Hold answers against the contract."""
    contract, name = CONTRACT[operation], str(dtype).removeprefix("torch.")
    found = found if isinstance(found, tuple) else (found,)
    assert [tuple(answer.shape) for answer in found] == contract.shapes(arguments)
    kinds = [name if kind == "kept" else kind for kind in contract.kinds]
    assert [str(answer.dtype) for answer in found] == [f"torch.{kind}" for kind in kinds]
    answers = tuple(answer.double().numpy() if answer.is_floating_point() else answer.numpy() for answer in found)
    used = contract.judge(answers, arguments, name)
    assert max(used.values()) <= 1, used


@interpreted
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("operation", "choices"), CASES)
def test_interpreted_kernels_are_the_definitions(kernels, operation, choices, dtype):
    arguments = CONTRACT[operation].make(np.random.default_rng(0), str(dtype).removeprefix("torch."), **choices)
    check(operation, kernels[operation](**native(arguments, dtype)), arguments, dtype)


@interpreted
@pytest.mark.parametrize("edges", ["chosen", "early", "even", "touching", "aside"])
@pytest.mark.parametrize(("bins", "tokens"), [(1, 1), (2, 2), (31, 33), (128, 257), (1000, 40)])
@pytest.mark.parametrize("kind", ["normal", "tied", "outlier"])
def test_interpreted_bounds_are_the_definition(kind, bins, tokens, edges):
    from wncore_torch.kernels.bounds import distance_bounds

    choices = {"tokens": tokens, "neurons": 4, "bins": bins, "edges": edges, "kind": kind, "constant": tokens == 33}
    arguments = BOUNDS.make(np.random.default_rng(0), "float64", **choices)
    found = distance_bounds(*map(torch.from_numpy, arguments.values()))
    assert max(BOUNDS.judge(tuple(answer.numpy() for answer in found), arguments, "float64").values()) <= 1


@interpreted
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_interpreted_transposition(dtype):
    from wncore_torch.kernels.transpose import transposed

    for n, m in ((1, 1), (63, 65), (130, 7), (2, 200)):
        y = torch.randn(n, m).to(dtype)
        for view in (y, y.T, y[::2], y[:, ::3]):
            assert torch.equal(transposed(view), view.T)
            assert transposed(view).is_contiguous()


@interpreted
@pytest.mark.parametrize(
    ("runs", "bins", "factor"),
    [(20, 256, 2), (7, 64, 8), (1, 32, 1), (3, 16, 4), (2, 1, 1), (32, 128, 1), (13, 1024, 8)],
)
def test_interpreted_folding_joins_bins_and_adds_along_the_tree(runs, bins, factor):
    from wncore_torch.kernels.folding import can_fold, fold

    rng = np.random.default_rng(runs)
    y = rng.standard_normal((400, 3)) + 5
    edges = choose_edges(y[:50], bins)
    starts = [0, *np.sort(rng.permutation(np.arange(1, 400))[: runs - 1]), 400]
    parts = [histogram(y[first:last], edges) for first, last in pairwise(starts)]
    total = TreeSum(lambda a, b: tuple(one + other for one, other in zip(a, b, strict=True)))
    for part in parts:
        total.add(part)
    assert can_fold(runs, bins, factor)
    arrays = (torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True))
    *whole, counts, sums, powers = (part.numpy() for part in fold(torch.from_numpy(edges), *arrays, factor))
    for found, expected in zip(whole, total.result(), strict=True):
        np.testing.assert_array_equal(found, expected)
    for run, part in enumerate(parts):
        want_counts, want_sums, _ = coarsen(*part[:2], edges, factor)
        np.testing.assert_array_equal(counts[run], want_counts)
        np.testing.assert_array_equal(sums[run], want_sums)
        np.testing.assert_array_equal(powers[run], part[2])
    assert not can_fold(33, bins, factor)
    assert not can_fold(runs, 96, factor)
    assert not can_fold(runs, 8192, factor)
    assert not can_fold(runs, 16, 16)


LAYOUTS = {
    "columns": lambda tensor: tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor,
    "apart": lambda tensor: torch.stack([tensor, torch.full_like(tensor, 99)], -1).flatten(-2)[..., ::2],
}


@interpreted
@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_interpreted_kernels_take_any_strides(kernels, operation, lay):
    arguments = CONTRACT[operation].make(np.random.default_rng(1), "float16", tokens=70, neurons=18)
    check(operation, kernels[operation](**native(arguments, torch.float16, lay)), arguments, torch.float16)


@interpreted
def test_interpreted_distances_of_constant_neurons_are_zero(kernels):
    y = torch.full((300, 2), 0.1)
    y[:, 1] = torch.linspace(0, 1, 300)
    found = kernels["gaussian_distance"](y)
    assert found[0] == 0
    assert found[1] > 0.1


@interpreted
@pytest.mark.parametrize("factor", [1e-310, 1e-200, 1e200, 1e307])
def test_interpreted_distances_do_not_mind_the_unit(kernels, factor):
    y = torch.from_numpy(np.random.default_rng(2).standard_normal((300, 1)))
    expected, found = (kernels["gaussian_distance"](part) for part in (y, y * factor))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
