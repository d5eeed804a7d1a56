"""What the benchmarks share: medians of runs that take turns, and a line for each."""

import statistics
import time
from collections.abc import Callable

Work = Callable[[], object]


def median_seconds(*works: Work, runs: int = 5) -> list[float]:
    """Time each of several pieces of work, in turn, so that the load of the machine is the same for all."""
    times: list[list[float]] = [[] for _ in works]
    for run in range(runs + 1):
        for work, seconds in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            if run:  # the first one compiles
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def row(what: str, seconds: float, peer: str, peer_seconds: float, goal: str = "") -> None:
    """Print a time, and its ratio to a peer's."""
    print(f"{what:46s} {1e3 * seconds:10.3f} ms {seconds / peer_seconds:9.4f} x {peer:40s} {goal}", flush=True)
