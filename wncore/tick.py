"""How long work tells that it goes on."""

from collections.abc import Callable

Tick = Callable[[int], object]
"""Is told how much was done since it was last called, or 0 as a sign of life."""


def idle(count: int) -> None:
    """Tell nobody."""
