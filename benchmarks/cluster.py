"""Timings of clustering, as ratios against scikit-learn's in the same run: python benchmarks/cluster.py [--quick].

Medians of several runs, in turn with the peer's, on the same number of threads; compilation is excluded. A step of the
peer is the difference between a long and a short k-means, so that what it does once is left out. The limits are one
read of the points at the bandwidth of a copy, and 2 n k r operations at the rate of a large float32 product. `--quick`
takes a quarter of the points. Results: docs/benchmarks.md.
"""

import sys

import numpy as np
from sklearn.cluster import KMeans
from timing import median_seconds, row

from wncore.backend import get_backend
from wncore.clustering import kmeans

QUICK = "--quick" in sys.argv
FAST = get_backend("numba")
CLUSTERS, SHORT, LONG = 16, 5, 25
SIZES = [(16_384 if QUICK else 65_536, 128), (4_096 if QUICK else 16_384, 18)]
"""Points and components: of inputs with 4,096 and with 576 channels."""
SQUARE = np.random.default_rng(0).standard_normal((2048, 2048), dtype=np.float32)


def blobs(n: int, r: int) -> np.ndarray:
    """Gaussian blobs that overlap, so that k-means takes many steps."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, r)) * 2 / np.sqrt(r)
    return (rng.standard_normal((n, r)) + centres[rng.integers(CLUSTERS, size=n)]).astype(np.float32)


def lloyd(x: np.ndarray, steps: int) -> None:
    """Take so many steps, from the first points on."""
    centroids = x[:CLUSTERS]
    for _ in range(steps):
        _, sums, counts, _ = (part[0] for part in FAST.lloyd(x, centroids[None]))
        centroids = (sums / counts[:, None]).astype(x.dtype)


def scikit_learn(x: np.ndarray, steps: int) -> None:
    model = KMeans(CLUSTERS, init=x[:CLUSTERS], n_init=1, max_iter=steps, algorithm="lloyd", tol=0).fit(x)
    assert model.n_iter_ == steps, "it converged: there are fewer steps than were timed"


def step(n: int, r: int) -> None:
    """Compare one step of Lloyd's algorithm."""
    x = blobs(n, r)
    target = np.empty_like(x)
    ours, long, short, copy, product = median_seconds(
        lambda: lloyd(x, SHORT),
        lambda: scikit_learn(x, LONG),
        lambda: scikit_learn(x, SHORT),
        lambda: np.copyto(target, x),
        lambda: SQUARE @ SQUARE,
        runs=9,
    )
    what, mine = f"a step, {n} x {r}, k = {CLUSTERS}", ours / SHORT
    row(what, mine, "a step of scikit-learn's KMeans", (long - short) / (LONG - SHORT), "goal <= 1")
    row("", mine, "one read of the points (limit)", copy / 2)
    row("", mine, "2 n k r operations (limit)", product * n * CLUSTERS * r / SQUARE.shape[0] ** 3)


def whole(n: int, r: int) -> None:
    """Compare one start of k-means, seeds and all, each with seeds of its own: runs differ in their number of steps."""
    x = blobs(n, r)
    found: dict[str, list[tuple[float, int]]] = {"ours": [], "peer": []}
    seeds = iter(range(1000))

    def ours() -> None:
        clusters = kmeans(x, CLUSTERS, FAST, seed=next(seeds), restarts=1)
        found["ours"].append((clusters.inertia, clusters.iterations))

    def peer() -> None:
        model = KMeans(CLUSTERS, n_init=1, algorithm="lloyd", random_state=next(seeds)).fit(x)
        found["peer"].append((model.inertia_, model.n_iter_))

    seconds = median_seconds(ours, peer, runs=9)
    row(f"k-means, {n} x {r}, k = {CLUSTERS}, one start", seconds[0], "scikit-learn's KMeans", seconds[1], "goal <= 1")
    for whose, runs in found.items():
        inertia, steps = np.median(runs, axis=0)
        print(f"{'':44s}   {whose}: {steps:.0f} steps and an inertia of {inertia:.6g} (medians)")


def main() -> None:
    print(f"{FAST.threads} threads; overlapping blobs, float32; medians of 9 runs\n")
    for size in SIZES:
        step(*size)
        whole(*size)


if __name__ == "__main__":
    main()
