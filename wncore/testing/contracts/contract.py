"""What the suite has to know about an operation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Draw = Callable[..., Any]
"""Hypothesis' `data.draw`: a strategy and its label -> a value."""
Arguments = dict[str, Any]
Answers = tuple[NDArray, ...]

SIZES = [(1, 1), (2, 2), (31, 15), (33, 16), (255, 17), (64, 63), (65, 64), (2, 65), (8191, 1), (8192, 2), (8193, 1)]
SIZES += [(127, 3), (128, 1), (129, 2), (1023, 2), (1024, 3), (1025, 1), (3, 127), (5, 128), (129, 129)]
"""Tokens and neurons on both sides of the edges of blocks."""


@dataclass(frozen=True, repr=False)
class Contract:
    """How arguments of one operation are drawn, and how its answers are judged."""

    operation: str
    choose: Callable[[Draw, str], dict[str, Any]]
    """Draw sizes and kinds, each with its label: (draw, dtype) -> keywords of `make`."""
    make: Callable[..., Arguments]
    """Build arguments by name: (rng, dtype, **choices) -> arrays of numbers that fit the dtype, or what is no array."""
    corners: Sequence[Mapping[str, Any]]
    """Choices that are tried on every run, beside `SIZES`."""
    judge: Callable[[Answers, Arguments, str], dict[str, float]]
    """Compare with the definition: (answers, arguments, dtype) -> share of the budget that each answer uses."""
    shapes: Callable[[Arguments], list[tuple[int, ...]]]
    """Shape of each answer."""
    kinds: tuple[str, ...]
    """Dtype of each answer; "kept" is the arguments'."""
    neurons: Mapping[str, int] = field(default_factory=dict)
    """The axis of the neurons in each argument that has one; none if they cannot be given in two calls."""
    neurons_of_answers: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    """The axis of the tokens in each argument that has one, if the answers of two calls add up."""
    by_token: frozenset[int] = frozenset()
    """Answers, by their place, whose last axis is that of the tokens: those of two calls follow each other."""
    wide: frozenset[str] = frozenset()
    """Arguments that are float64 whatever the dtype of the others."""
    dtypes: tuple[str, ...] = ()
    """The dtypes that its arguments can have, if not the backend's."""
    large: Mapping[str, Any] | None = None
    """Choices that are tried with a million tokens; None if tokens make nothing larger."""

    def __repr__(self) -> str:
        return f"<contract of {self.operation}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would list every field of a dataclass


def part(arguments: Arguments, axes: Mapping[str, int], first: int, last: int) -> Arguments:
    """Return the arguments for first..last of the neurons, or of the tokens, whose axes are given."""

    def cut(name: str, value: Any) -> Any:
        if value is None or name not in axes:
            return value
        return value.take(np.arange(first, last), axis=axes[name])

    return {name: cut(name, value) for name, value in arguments.items()}


def length(arguments: Arguments, axes: Mapping[str, int]) -> int:
    """Return how many neurons, or tokens, there are."""
    name, axis = next(iter(axes.items()))
    return arguments[name].shape[axis]
