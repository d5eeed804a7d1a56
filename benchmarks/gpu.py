"""Timings on a CUDA GPU, as ratios against named peers measured in the same run: python benchmarks/gpu.py [PART ...].

Parts: distances, scores_of_inputs, pruning, clusters, routing, others; all by default. Medians of runs, measured by
events of the device after a warm-up. Beside each stands the physical limit, measured in the same run: bytes at the rate
of a large copy, operations at that of a large product in the same precision. The memory that an operation takes beside
its arguments is the peak of torch's allocator. Results: docs/benchmarks.md.
"""

import statistics
import sys
from collections.abc import Callable

import numpy as np
import torch
from prune_peers import published_sparsegpt

from wncore.backend import get_backend
from wncore.clustering import kmeans
from wncore.histograms import choose_edges
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import parse_pattern

DEVICE = "cuda"
FUSED = get_backend("torch", device=DEVICE)
Work = Callable[[], object]


def seconds(work: Work, runs: int = 5) -> float:
    """Return the median time of some work on the device."""
    work()
    times = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def gigabytes(work: Work) -> float:
    """Return the largest memory that some work takes beside what is held already."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def row(what: str, work: Work, runs: int = 5, rate: tuple[float, str] = (0, ""), **others: float) -> float:
    """Print the time of some work, its rate, how many times slower each of the others is, and its memory."""
    mine = seconds(work, runs)
    pace = f"{rate[0] / mine:8.1f} {rate[1]}" if rate[1] else ""
    ratios = ", ".join(f"{name.replace('_', ' ')} / ours {other / mine:.3g}" for name, other in others.items())
    print(f"{what:44s} {1e3 * mine:9.2f} ms {pace:18s} {gigabytes(work):6.2f} GB   {ratios}", flush=True)
    return mine


def copy_rate() -> float:
    """Bytes a second, read and written."""
    x = torch.randn(2**28, device=DEVICE)
    y = torch.empty_like(x)
    return 2 * x.nbytes / seconds(lambda: y.copy_(x))


def product_rate(dtype: torch.dtype, size: int = 8192) -> float:
    """Floating point operations a second."""
    a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b)


def distances() -> None:
    n, m, bins = 65_536, 4_096, 1_024
    y, giga = torch.randn(n, m, device=DEVICE), n * m / 1e9
    half, bandwidth = y.bfloat16(), copy_rate()
    sort, read = sorting(y), y.nbytes / bandwidth
    print(f"torch.sort of ({m}, {n}): {giga / sort:.1f} G samples/s; a copy moves {bandwidth / 1e12:.2f} TB/s")
    row("exact distance", lambda: FUSED.gaussian_distance(y), 5, (giga, "G/s"), torch_sort=sort, one_read=read)
    edges = FUSED.asarray(choose_edges(y[:4096].cpu().numpy(), bins), "float64")

    def streaming(outputs: torch.Tensor) -> object:
        return FUSED.distance_bounds(edges, *FUSED.histogram(outputs, edges))

    row(f"streaming distance, {bins:,} bins", lambda: streaming(y), 5, (giga, "G/s"), one_read=read)
    row("streaming distance, bfloat16", lambda: streaming(half), 5, (giga, "G/s"), one_read=read / 2)


def sorting(y: torch.Tensor) -> float:
    """Seconds of a bare sort of the columns, which lie side by side already."""
    rows = y.T.contiguous()
    return seconds(lambda: rows.sort(dim=1))


def scores_of_inputs() -> None:
    n, d, m, bins = 32_768, 4_096, 11_008, 1_024
    x, w = (torch.randn(rows, d, device=DEVICE, dtype=torch.bfloat16) / d**0.25 for rows in (n, m))
    nobody, operations, rate = torch.zeros(n, dtype=torch.int64, device=DEVICE), 2 * n * d * m, product_rate(x.dtype)
    sample = (x[:2048].float() @ w.float().T).cpu().numpy()
    edges = FUSED.asarray(choose_edges(sample, bins), "float64")

    def score() -> object:
        return FUSED.distance_bounds(edges, *FUSED.linear_histogram(x, w[None], None, nobody, edges))

    print(f"a large bfloat16 product: {rate / 1e12:.0f} TFLOP/s")
    pace = operations / 1e12, "TFLOP/s"
    row(f"scores of inputs, {d} -> {m}, bfloat16", score, 5, pace, product_alone=operations / rate)


def problem(k: int, m: int, d: int, tokens: int = 16_384) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (k, m, d) float32, and Gram matrices (k, d, d) float64 of inputs that differ in size."""
    torch.manual_seed(0)
    x = torch.randn(tokens, d, device=DEVICE) * torch.linspace(0.1, 1, d, device=DEVICE)
    h, unit = (x.T @ x).double(), 1 + torch.rand(k, d, device=DEVICE, dtype=torch.float64)
    grams = torch.stack([h * one[:, None] * one for one in unit])
    return torch.randn(k, m, d, device=DEVICE), grams


def sparsegpt(m: int, d: int, pattern: str = "0.5") -> None:
    spec = PruneSpec((parse_pattern(pattern),), "sparsegpt", "block", "published", resolve=False)
    w, h = problem(1, m, d)
    kept, of = (pattern + ":").split(":")[:2]
    choice = {"n": int(kept), "m": int(of)} if of else {"sparsity": float(pattern)}
    gram = h[0].float()
    loop = seconds(lambda: published_sparsegpt(w[0], gram, **choice), runs=2)
    row(f"SparseGPT {m} x {d}, {pattern}", lambda: FUSED.prune(w, h, spec), 3, published_loop=loop)
    w, h = problem(16, m, d)
    row("... 16 experts", lambda: FUSED.prune(w, h, spec), 1, sixteen_published_loops=16 * loop)


def pruning() -> None:
    for m, d in ((4096, 4096), (11_008, 4096), (4096, 11_008)):
        sparsegpt(m, d)
    sparsegpt(4096, 4096, "2:4")
    w, h = problem(16, 1536, 576)
    spec = PruneSpec((parse_pattern("0.5"),), "admm", resolve=False)
    row("ADMM, 16 experts of 1536 x 576", lambda: FUSED.prune(w, h, spec), 3)
    mask = FUSED.prune(w, h, spec)[0][0] != 0
    row("re-solving them", lambda: FUSED.resolve(w, h, mask), 3, goal=0.3)


def clusters() -> None:
    n, r, k = 262_144, 128, 16
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((k, r)) * 2 / np.sqrt(r)
    x = (rng.standard_normal((n, r)) + centres[rng.integers(k, size=n)]).astype(np.float32)
    native, read = FUSED.asarray(x, "float32"), x.nbytes / copy_rate()
    for starts in (1, 10):
        centroids = FUSED.asarray(x[: starts * k].reshape(starts, k, r), "float32")
        what = f"a Lloyd step of {starts} start{'s' * (starts > 1)}, {n} x {r}, k = {k}"
        row(what, lambda: FUSED.lloyd(native, centroids), 20, one_read=read)  # noqa: B023
    steps: list[int] = []
    row("k-means, 10 restarts", lambda: steps.append(kmeans(x, k, FUSED, restarts=10).iterations), 3, goal=0.1)
    print(f"the best start took {steps[-1]} steps")


def others() -> None:
    """What has no kernel: its time, and the memory that it takes."""
    n, d, m = 65_536, 4_096, 4_096
    x, y = (torch.randn(n, width, device=DEVICE) for width in (d, m))
    left, right = torch.randint(n, (2, 50_000), device=DEVICE)
    row(f"mapping difficulty, {m:,} neurons, 50,000 pairs", lambda: FUSED.mapping_difficulty(x, y, left, right), 3)
    nobody, labels = torch.zeros(n, dtype=torch.int64, device=DEVICE), torch.randint(16, (n,), device=DEVICE)
    for kind in (torch.float32, torch.bfloat16):
        tokens, operations = x.to(kind), 2 * n * d * d
        alone, pace = operations / product_rate(kind), (operations / 1e12, "TFLOP/s")
        name = str(kind).removeprefix("torch.")
        row(f"Gram matrix, {n:,} x {d:,}, {name}", lambda: FUSED.gram(tokens, nobody, 1), 3, pace, one_product=alone)  # noqa: B023
        row("... of 16 clusters", lambda: FUSED.gram(tokens, labels, 16), 3, pace, one_product=alone)  # noqa: B023


def routing() -> None:
    n, d, m, k = 65_536, 4_096, 11_008, 16
    labels = torch.randint(k, (n,), device=DEVICE)
    for dtype, tokens in ((torch.bfloat16, n), (torch.float32, n // 8)):
        x, w = torch.randn(tokens, d, device=DEVICE).to(dtype), torch.randn(k, m, d, device=DEVICE).to(dtype)
        own, operations = labels[:tokens], 2 * tokens * d * m
        loop = seconds(lambda: [x[own == c] @ w[c].T for c in range(k)])  # noqa: B023
        alone = operations / product_rate(dtype)
        name = str(dtype).removeprefix("torch.")
        row(
            f"routed product, {k} experts, {name}",
            lambda: FUSED.routed_linear(x, w, None, own),  # noqa: B023
            5,
            (operations / 1e12, "TFLOP/s"),
            a_product_for_each=loop,
            one_product=alone,
        )


def main() -> None:
    parts = {work.__name__: work for work in (distances, scores_of_inputs, pruning, clusters, routing, others)}
    print(f"{FUSED.device_name}, torch {torch.__version__}; medians; memory is beside the arguments\n")
    for name in sys.argv[1:] or parts:
        parts[name]()
        torch.cuda.empty_cache()
        print()


if __name__ == "__main__":
    main()
