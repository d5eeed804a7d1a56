"""Timings of pruning, as ratios against named peers measured in the same run: python benchmarks/prune.py [--quick].

Medians of several runs, in turn with the peer's, on the same number of threads; compilation is excluded. The limit of
a method is its floating point operations at the rate of a large matrix product, measured beside it. `--quick` takes
matrices of half the width and leaves out the definitions, which are slow. On a machine that others use, too, set
OMP_WAIT_POLICY=passive: torch's threads would wait for each other in a loop, and take ten times as long. Results:
docs/benchmarks.md.
"""

import sys

import numpy as np
import torch
from prune_peers import greedy_obs, published_sparsegpt
from timing import Work, median_seconds, row

from wncore.backend import get_backend
from wncore.pruning.damping import damp
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import parse_pattern

QUICK = "--quick" in sys.argv
FAST, DEFINITION = get_backend("numba"), get_backend("numpy")
DOUBLE = np.random.default_rng(0).standard_normal((1024, 1024))
SINGLE = DOUBLE.astype(np.float32)

Operations = tuple[float, float]
"""Floating point operations in float32 and in float64."""


def compare(what: str, ours: Work, operations: Operations, peers: dict[str, Work], goal: str = "") -> None:
    """Print ours beside its peers and its limit."""
    mine, single, double, *others = median_seconds(
        ours, lambda: SINGLE @ SINGLE, lambda: DOUBLE @ DOUBLE, *peers.values()
    )
    for peer, seconds in zip(peers, others, strict=True):
        row(what, mine, peer, seconds, goal)
    limit = (operations[0] * single + operations[1] * double) / (2 * len(DOUBLE) ** 3)
    row("" if peers else what, mine, "the limit", limit)


def problem(m: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (1, m, d), and the Gram matrix (1, d, d) of inputs that differ in size."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2 * d, d), dtype=np.float32) * rng.uniform(0.1, 1.0, d).astype(np.float32)
    return rng.standard_normal((1, m, d), dtype=np.float32), (x.T @ x).astype(np.float64)[None]


def sparsegpt(d: int) -> None:
    w, h = problem(d, d)
    dense, gram = torch.from_numpy(w[0]), torch.from_numpy(h[0]).float()
    for pattern, choice in (("0.5", {"sparsity": 0.5}), ("2:4", {"n": 2, "m": 4})):
        spec = PruneSpec((parse_pattern(pattern),), "sparsegpt", "block", "published", resolve=False)
        compare(
            f"SparseGPT, {d} x {d}, {pattern}",
            lambda spec=spec: FAST.prune(w, h, spec),
            (d**3, d**3 / 3),
            {"the published loop in torch": lambda choice=choice: published_sparsegpt(dense, gram, **choice)},
            "goal <= 0.33",
        )


def obs(d: int) -> None:
    w, h = problem(16, d)
    spec = PruneSpec((parse_pattern("0.5"),), "obs", "row", resolve=False)
    damped = damp(h[0], spec.ridge).h
    compare(
        f"exact OBS, 16 x {d}, 0.5",
        lambda: FAST.prune(w, h, spec),
        (0, 16 * d * (d // 2) ** 2),
        {"NumPy, an inverse for each row": lambda: greedy_obs(w[0], damped, d // 2)},
        "goal <= 0.05",
    )


def admm_and_resolve(m: int, d: int) -> None:
    w, h = problem(m, d)
    spec = PruneSpec((parse_pattern("0.5"),), "admm", resolve=False)
    mask = FAST.prune(w, h, spec)[0][0] != 0
    damped, kept = damp(h[0], spec.ridge).h[None], mask.sum(axis=2, dtype=np.float64)
    iterating: Operations = (spec.iterations * (2 * m * d**2 + d**3), 0)
    solving: Operations = (0, float(np.sum(kept**3)) / 3 + 2 * m * d**2)
    compare(f"ADMM, {m} x {d}, 0.5", lambda: FAST.prune(w, h, spec), iterating, {})
    compare(f"re-solving, {m} x {d}, 0.5", lambda: FAST.resolve(w, damped, mask), solving, {})
    if not QUICK:
        ours = median_seconds(lambda: FAST.prune(w, h, spec), lambda: FAST.resolve(w, damped, mask))
        slow = median_seconds(lambda: DEFINITION.prune(w, h, spec), lambda: DEFINITION.resolve(w, damped, mask), runs=1)
        for what, mine, definition in zip(("ADMM", "re-solving"), ours, slow, strict=True):
            row(f"{what}, {m} x {d}, 0.5", mine, "the definition", definition)


def main() -> None:
    torch.set_num_threads(FAST.threads)
    print(f"{FAST.threads} threads; float32 weights; medians\n")
    for d in (512, 1024) if QUICK else (1024, 2048):
        sparsegpt(d)
    obs(256 if QUICK else 512)
    for m, d in ((768, 288), (512, 512)) if QUICK else ((1536, 576), (1024, 1024)):
        admm_and_resolve(m, d)


if __name__ == "__main__":
    main()
