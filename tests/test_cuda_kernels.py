"""Kernels that only a CUDA device can run, and fused against plain at sizes beyond the conformance suite."""

import warnings
from itertools import pairwise

import numpy as np
import pytest

from wncore.backend import get_backend
from wncore.histograms import choose_edges, coarsen
from wncore.layers.pieces import TreeSum
from wncore.tolerance import share

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

HALF = [torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def fused():
    return get_backend("torch", device="cuda")


@pytest.fixture(scope="module")
def plain():
    return get_backend("torch", device="cuda", kernels="plain")


def drawn(n, m, dtype=torch.float32):
    torch.manual_seed(0)
    return (torch.randn(n, m, device="cuda") * torch.linspace(0.5, 5, m, device="cuda") + 3).to(dtype)


def edges_of(y, bins):
    return torch.from_numpy(choose_edges(y[:4096].double().cpu().numpy(), bins)).cuda()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize("sizes", [(70_001, 9, 1024), (5_000, 1_030, 128), (33, 4_099, 1), (40_000, 8, 5_000)])
def test_histogram(fused, plain, sizes, dtype):
    n, m, bins = sizes
    y = drawn(n, m, dtype)
    edges = edges_of(y, bins)
    counts, sums, powers = fused.histogram(y, edges)
    want = plain.histogram(y, edges)
    assert torch.equal(counts, want[0])
    width = torch.nn.functional.pad(edges.diff(dim=1), (1, 1))
    scale = (want[1].abs() + counts * width).cpu().numpy()
    assert share(sums.cpu().numpy(), want[1].cpu().numpy(), "float64", n**2, scale) <= 1
    assert torch.allclose(powers, want[2], rtol=1e-11, atol=1e-11 * n)
    for once, again in zip((counts, sums, powers), fused.histogram(y, edges), strict=True):
        assert torch.equal(once, again)


@pytest.mark.parametrize("view", [lambda y: y[::3], lambda y: y[:, ::2], lambda y: y.T, lambda y: y[:1].expand(50, -1)])
def test_histogram_of_outputs_that_are_not_contiguous(fused, view):
    y = view(drawn(300, 200))
    edges = edges_of(y, 64)
    for strided, packed in zip(fused.histogram(y, edges), fused.histogram(y.contiguous(), edges), strict=True):
        assert torch.equal(strided, packed)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize(("bins", "factor"), [(1024, 8), (128, 1)])
def test_runs_have_the_bits_of_histograms_one_by_one(fused, dtype, bins, factor):
    y = drawn(30_000, 37, dtype)
    edges = edges_of(y, bins)
    starts = [0, 1, 9_000, 16_000, 29_990, 30_000]
    found = fused.histogram_runs(y, edges, torch.tensor(starts, device="cuda"), factor)
    total = TreeSum(lambda a, b: tuple(one + other for one, other in zip(a, b, strict=True)))
    for run, (first, last) in enumerate(pairwise(starts)):
        counts, sums, powers = fused.histogram(y[first:last], edges)
        total.add((counts, sums, powers))
        expected = *coarsen(counts, sums, edges, factor)[:2], powers
        assert all(torch.equal(part[run], one) for part, one in zip(found[3:], expected, strict=True))
    assert all(torch.equal(*both) for both in zip(found[:3], total.result(), strict=True))


def test_runs_over_any_number_of_bins(fused, plain):
    y = drawn(1000, 3)
    edges, starts = edges_of(y, 96), torch.tensor([0, 300, 1000], device="cuda")
    for one, other in zip(
        fused.histogram_runs(y, edges, starts, 3), plain.histogram_runs(y, edges, starts, 3), strict=True
    ):
        assert torch.equal(one, other)


def test_more_bins_than_shared_memory_holds(fused, plain):
    y = drawn(1000, 3)
    edges = edges_of(y, 20_000)
    assert torch.equal(fused.histogram(y, edges)[0], plain.histogram(y, edges)[0])


def test_a_million_tokens(fused, plain):
    y = drawn(1_000_000, 5)
    edges = edges_of(y, 1024)
    low, high = fused.distance_bounds(edges, *fused.histogram(y, edges))
    exact = fused.gaussian_distance(y)
    assert (low <= exact).all()
    assert (exact <= high).all()
    assert torch.allclose(exact, plain.gaussian_distance(y), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_linear_histogram_counts_each_token_once(fused, dtype):
    """Its outputs are those of a product of its own, which may round otherwise: only sums over bins can be compared."""
    torch.manual_seed(0)
    x, w = drawn(20_000, 96, dtype), torch.randn(3, 37, 96, device="cuda").to(dtype)
    bias, labels = torch.randn(37, device="cuda").to(dtype), torch.randint(3, (len(x),), device="cuda")
    wide = [(x[labels == c].double() @ w[c].double().T + bias.double()) for c in range(3)]
    edges = edges_of(torch.cat(wide), 256)
    counts, _, powers = fused.linear_histogram(x, w, bias, labels, edges)
    want = fused.histogram(torch.cat(wide), edges)
    assert (counts.sum(dim=1) == len(x)).all()
    assert (counts.cumsum(dim=1) - want[0].cumsum(dim=1)).abs().max() <= 20
    assert torch.allclose(powers, want[2], rtol=1e-4, atol=1e-2)


def test_nothing_is_copied_to_the_host(fused):
    """Synchronising with the host is an error while these run; pruning looks at its factorisations, so it may."""
    y, labels = drawn(5_000, 64), torch.randint(4, (5_000,), device="cuda")
    edges, w = edges_of(y, 128), torch.randn(4, 32, 64, device="cuda")
    left, right = torch.randint(5_000, (2, 1_000), device="cuda")

    def run():
        fused.distance_bounds(edges, *fused.histogram(y, edges))
        fused.gaussian_distance(y)
        fused.lloyd(y, y[None, :16].contiguous())
        fused.mapping_difficulty(y, y, left, right)
        fused.routed_linear(y.bfloat16(), w.bfloat16(), None, labels)

    run()  # compiles, and fills caches
    with warnings.catch_warnings(action="ignore"):  # torch warns that it does not see every synchronisation
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_tf32_is_off_unless_asked_for(fused):
    x, w = drawn(512, 512), torch.randn(1, 512, 512, device="cuda")
    labels = torch.zeros(512, dtype=torch.int64, device="cuda")
    exact = (x.double() @ w[0].double().T).cpu().numpy()
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        strict = fused.routed_linear(x, w, None, labels).cpu().numpy()
        rough = get_backend("torch", device="cuda", tf32=True).routed_linear(x, w, None, labels).cpu().numpy()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    error = [np.linalg.norm(got - exact) / np.linalg.norm(exact) for got in (strict, rough)]
    assert error[0] < 1e-6 < 1e-4 < error[1]


@pytest.mark.parametrize("tokens", [2, 300])
def test_the_smallest_numbers_of_float16_keep_their_digits(fused, tokens):
    """Tensor cores align float16 products by exponents that numbers below 6e-5 do not have."""
    torch.manual_seed(0)
    x = (torch.randn(tokens, 64, device="cuda") * 0.1 ** torch.randint(8, (tokens, 64), device="cuda")).half()
    grams = fused.gram(x, torch.zeros(tokens, dtype=torch.int64, device="cuda"), 1)[0][0]
    wide = x.double()
    scale = (wide.abs().T @ wide.abs()).cpu().numpy()
    assert share(grams.cpu().numpy(), (wide.T @ wide).cpu().numpy(), "float32", tokens, scale) <= 1
