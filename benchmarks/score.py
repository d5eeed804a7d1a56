"""Timings of scoring, as ratios against named peers measured in the same run: python benchmarks/score.py [--quick].

Medians of several runs. The physical limit of each kernel is one read of the outputs at the machine's copy bandwidth.
`--quick` uses a sixteenth of the data and skips the 3 GB dump. Results: docs/benchmarks.md.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
from scipy.stats import wasserstein_distance
from timing import median_seconds, row

from wncore.backend import get_backend
from wncore.dumps import write_dump
from wncore.histograms import choose_edges

QUICK = "--quick" in sys.argv
TOKENS, NEURONS = (8192, 512) if QUICK else (32_768, 2_048)
WNCORE = Path(sys.executable).with_name("wncore")


def command(*arguments: str | Path) -> tuple[float, float]:
    """Run wncore; return its wall time in seconds and its largest resident memory in MiB.

    A small process in between does the measuring: a child starts with its parent's peak, and ours holds the data.
    """
    code = (
        "import resource, subprocess, sys, time; start = time.perf_counter(); "
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    run = [sys.executable, "-c", code, WNCORE, *arguments]
    wall, resident = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    return float(wall), float(resident)


def main() -> None:
    fast = get_backend("numba")
    y = np.random.default_rng(0).standard_normal((TOKENS, NEURONS), dtype=np.float32)
    print(f"{os.cpu_count()} cores; outputs {TOKENS} x {NEURONS} float32; median of 5 runs\n")

    def bare() -> None:
        np.ascontiguousarray(y.T).sort(axis=1)

    copy, sort, exact = median_seconds(lambda: y.copy(), bare, lambda: fast.gaussian_distance(y))
    row("exact distance", exact, "transpose + np.sort, one thread", sort, "goal <= 0.7")
    row("", exact, "a copy of the outputs (limit)", copy, "")

    edges = choose_edges(y[:4096], 1024)
    stream, edges_time = median_seconds(
        lambda: fast.distance_bounds(edges, *fast.histogram(y, edges)), lambda: choose_edges(y[:4096], 1024)
    )
    row("streaming distance, 1,024 bins", stream, "exact distance", exact, "goal <= 1")
    row("placing its bins, once a layer", edges_time, "exact distance", exact, "")

    few = np.ascontiguousarray(y[:, :8])
    z = (few - few.mean(0)) / few.std(0)
    gauss = np.random.default_rng(1).standard_normal(TOKENS)
    [scipy] = median_seconds(lambda: [wasserstein_distance(column, gauss) for column in z.T], runs=3)
    row("exact distance", exact, "scipy.stats.wasserstein_distance", scipy / 8 * NEURONS, "goal <= 0.02")

    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "outputs.safetensors"
        write_dump(dump, {"layer.output": y}, sequence_length=1024)
        command("score", dump)
        whole = statistics.median(command("score", dump)[0] for _ in range(5))
        row("wncore score, the whole command", whole, "2 x sort + 1.5 s", 2 * sort + 1.5, "goal <= 1")
        whole = statistics.median(command("score", dump, "--streaming")[0] for _ in range(5))
        row("wncore score --streaming", whole, "2 x sort + 1.5 s", 2 * sort + 1.5, "")
        seconds = statistics.median(command("--help")[0] for _ in range(9))
        row("wncore --help", seconds, "0.25 s", 0.25, "goal <= 1")
        dump.unlink()
        if not QUICK:
            large(Path(folder) / "large.safetensors")


def large(dump: Path) -> None:
    """A dump of 3 GB in bfloat16 in bounded memory."""
    n, m = 262_144, 6_144
    block = np.random.default_rng(0).standard_normal((n // 64, m), dtype=np.float32).astype(ml_dtypes.bfloat16)
    write_dump(dump, {"layer.output": np.broadcast_to(block, (64, *block.shape)).reshape(n, m)}, sequence_length=1024)
    for memory in (1024, 512):
        for estimator in ("exact", "streaming"):
            wall, resident = command("score", dump, "--memory", f"{memory}MiB", "--estimator", estimator)
            print(
                f"3 GB dump, {estimator}, --memory {memory}MiB: {wall:.0f} s, {resident:.0f} MiB resident "
                f"(goal <= {memory + 300})",
                flush=True,
            )


if __name__ == "__main__":
    main()
