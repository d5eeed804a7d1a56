"""What the suite has to know about an operation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Draw = Callable[..., Any]
"""Hypothesis' `data.draw`: a strategy and its label -> a value."""
Arguments = dict[str, Any]
Answers = tuple[NDArray, ...]

SIZES = [(1, 1), (2, 2), (31, 15), (33, 16), (255, 17), (64, 63), (65, 64), (2, 65), (8191, 1), (8192, 2), (8193, 1)]
"""Tokens and neurons on both sides of the edges of blocks."""


@dataclass(frozen=True, repr=False)
class Contract:
    """How arguments of one operation are drawn, and how its answers are judged."""

    operation: str
    choose: Callable[[Draw, str], dict[str, Any]]
    """Draw sizes and kinds, each with its label: (draw, dtype) -> keywords of `make`."""
    make: Callable[..., Arguments]
    """Build arguments by name: (rng, dtype, **choices) -> NumPy arrays that hold numbers of that dtype, or None."""
    corners: Sequence[Mapping[str, Any]]
    """Choices that are tried on every run, beside `SIZES`."""
    judge: Callable[[Answers, Arguments, str], dict[str, float]]
    """Compare with the definition: (answers, arguments, dtype) -> share of the budget that each answer uses."""
    shapes: Callable[[Arguments], list[tuple[int, ...]]]
    """Shape of each answer."""
    kinds: tuple[str, ...]
    """Dtype of each answer; "kept" is the arguments'."""
    neurons: Mapping[str, int]
    """The axis of the neurons in each argument that has one."""
    neurons_of_answers: int = 0
    wide: frozenset[str] = frozenset()
    """Arguments that are float64 whatever the dtype of the others."""
    dtypes: tuple[str, ...] = ()
    """The dtypes that its arguments can have, if not the backend's."""

    def __repr__(self) -> str:
        return f"<contract of {self.operation}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would list every field of a dataclass

    def part(self, arguments: Arguments, first: int, last: int) -> Arguments:
        """Return the arguments for the neurons first..last alone."""

        def cut(name: str, value: Any) -> Any:
            if value is None or name not in self.neurons:
                return value
            return value.take(np.arange(first, last), axis=self.neurons[name])

        return {name: cut(name, value) for name, value in arguments.items()}

    def width(self, arguments: Arguments) -> int:
        """Return the number of neurons m."""
        name, axis = next(iter(self.neurons.items()))
        return arguments[name].shape[axis]
