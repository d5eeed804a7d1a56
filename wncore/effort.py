"""The time that work takes, foretold: how much there is to do, over how much of it is done in a second here.

Amounts are counted, rates are measured by trials on the machine at hand. It is an estimate: what is not a step is not
counted, and a machine that is shared is slower at other times.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from wncore.files import flush

ENOUGH = 0.05
"""Seconds that a trial takes, if there is as much to do."""
BLOCK, MOST_BLOCKS = 2**20, 64
"""Bytes that a trial of the disk writes at a time, and how many times."""


@dataclass(frozen=True)
class Step:
    """Work of one kind: how much of it there is, in what unit, and how much is done in a second.

    >>> Step("products", 6e9, "operations", 2e9).seconds
    3.0
    """

    name: str
    amount: float
    unit: str
    rate: float

    @property
    def seconds(self) -> float:
        """What it takes."""
        return self.amount / self.rate


def total(steps: Sequence[Step]) -> float:
    """Return the seconds of one step after the other."""
    return sum(step.seconds for step in steps)


def measure(prepare: Callable[[int], Callable[[], object]], most: int) -> float:
    """Return how many units of a kind of work are done in a second, tried on twice as many until it takes long enough.

    `prepare` is given a number of units, at most `most`, and returns what does them. The very first trial is done
    twice, and only the second time counts, as compilers and libraries begin then.
    """
    count = 1
    prepare(count)()
    while True:
        work = prepare(count)
        start = perf_counter()
        work()
        took = perf_counter() - start
        if took >= ENOUGH or count >= most:
            return count / max(took, 1e-9)
        count = min(most, 2 * count)


def writing(folder: Path, size: int) -> Step:
    """Foretell how long it takes to write so many bytes into a folder; a file without a name is tried."""
    content = bytes(BLOCK)

    def prepare(blocks: int) -> Callable[[], None]:
        def work() -> None:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                for _ in range(blocks):
                    os.write(file.fileno(), content)
                flush(file.fileno())

        return work

    return Step("writing", size, "bytes", BLOCK * measure(prepare, min(MOST_BLOCKS, max(1, size // BLOCK))))


def spelled(seconds: float) -> str:
    """Write a time, for people.

    >>> spelled(0.04), spelled(7.26), spelled(100), spelled(7200)
    ('under 1 s', '7 s', '1.7 min', '2.0 h')
    """
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
