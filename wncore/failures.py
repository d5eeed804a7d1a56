"""One layer that fails does not stop the others: it is left out, and named with the reason."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from wncore.errors import WriteError

Fail = Callable[[str, Exception], object]
"""Is told which layer failed, and how; what it raises ends the work."""
NO_FAULT = (WriteError, BrokenPipeError)
"""Errors that are no fault of the layer at hand, and end the work: a disk that is full, a reader that went away."""


@dataclass(frozen=True)
class Failure:
    """A layer that could not be worked on."""

    name: str
    error: Exception


class BlamedError(Exception):
    """Work on several layers failed by the fault of one; the cause is the error itself."""

    def __init__(self, name: str, cause: Exception) -> None:
        super().__init__(name)
        self.name, self.cause = name, cause


def first_of(failed: Sequence[Failure]) -> Exception:
    """Return the error to raise when all layers failed; it names the others."""
    error = failed[0].error
    for other in failed[1:]:
        error.add_note(f"{other.name} failed, too: {other.error}")
    return error


def forgive(name: str, error: Exception) -> None:
    """Go on without the layer, and tell nobody."""


def reraise(name: str, error: Exception) -> None:
    """Let the first layer that fails end the work."""
    raise error


@contextmanager
def attempt(name: str, fail: Fail) -> Generator[None, None, None]:
    """Hand an error within the block to `fail`, and go on behind it.

    What is no fault of the layer is raised: an interrupt, and `NO_FAULT`.
    """
    try:
        yield
    except NO_FAULT:
        raise
    except Exception as error:
        fail(name, error)


@contextmanager
def blaming(name: str) -> Generator[None, None, None]:
    """Name the layer by whose fault the block fails, as a `BlamedError`."""

    def blame(name: str, error: Exception) -> None:
        raise BlamedError(name, error) from error

    with attempt(name, blame):
        yield
