"""The progress bar of all commands: on stderr, from two seconds on, silent when nobody looks."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from wncore_cli import printable

if TYPE_CHECKING:
    from wncore.layers.activations import Activations

DELAY, BEAT = 2.0, 0.5
"""Seconds until the bar is shown, and between signs of life while a long step keeps it where it is."""


@contextmanager
def progress(total: int | None, unit: str, quiet: bool, first: str = "", scale: bool = False) -> Iterator[Any]:
    """Yield a bar; `bar.update` takes how much was done, 0 as well. Its description starts with a layer's name."""
    from tqdm import tqdm

    off = True if quiet else None
    bar = tqdm(total=total, unit=f" {unit}", unit_scale=scale, delay=DELAY, disable=off, leave=False)
    describe(bar, first)
    done = Event()

    def beat() -> None:
        wait = DELAY
        while not done.wait(wait):
            bar.refresh()
            wait = BEAT

    thread = Thread(target=beat, daemon=True)
    if not bar.disable:
        thread.start()
    try:
        yield bar
    finally:
        done.set()
        if thread.is_alive():
            thread.join()
        bar.close()


def describe(bar: Any, name: str) -> None:
    """Say what is being worked on; names of layers come from files that nobody checked."""
    bar.set_description(printable(name), refresh=False)


def begun(opened: "Iterable[Activations]", bar: Any) -> "Iterator[Activations]":
    """Yield layers while a bar, whose unit they are, names the one that is worked on."""
    for one in opened:
        describe(bar, one.name)
        yield one
        del one  # whoever took it may have let go of it
        bar.update()
