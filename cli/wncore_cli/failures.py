"""Layers that failed, while the others went on: kept with the reason, named at the end, in documents and on stderr."""

import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from wncore.errors import listed
from wncore.failures import Fail, Failure, first_of
from wncore_cli import describe, echo, printable

MOST = 20
"""Notes, and layers that failed, that are printed; documents hold all."""


def recorder(failed: list[Failure]) -> Fail:
    """Return what notes a layer that failed. Arrays that its traceback holds are let go of; --debug prints it first."""

    def record(name: str, error: Exception) -> None:
        show(error)
        failed.append(Failure(name, _light(error)))

    return record


def show(error: Exception) -> None:
    """Print where an error came from, if --debug is given."""
    if click.get_current_context().meta.get("wncore.debug", False):
        echo("".join(traceback.format_exception(error)), err=True)


def _light(error: Exception) -> Exception:
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error


def demand_some(done: Sequence[Any], failed: Sequence[Failure]) -> None:
    """Raise the first error if nothing was done."""
    if not done and failed:
        raise first_of(failed)


def documented(failed: Sequence[Failure]) -> dict[str, Any]:
    """Return what a document says of layers that failed; nothing if none did."""
    if not failed:
        return {}
    return {"failed": [{"name": one.name, "error": describe(one.error)} for one in failed]}


def told(failure: Failure) -> str:
    """Say in one line which layer failed, and why."""
    return said_of(failure.name, describe(failure.error))


def said_of(layer: str, text: str) -> str:
    """Put the name of a layer before what is said of it, unless that begins with it."""
    name, text = printable(layer), printable(text)
    return text if text.startswith((f"{name} ", f"{name}.", f"{name}:")) else f"{name}: {text}"


def report(failed: Sequence[Failure]) -> int:
    """Name the layers that failed, a line each, and return the exit code."""
    for one in failed[:MOST]:
        echo(f"wncore: error: {told(one)}", err=True)
    if failed[MOST:]:
        echo(f"wncore: error: and {len(failed) - MOST} more: {listed([one.name for one in failed[MOST:]])}", err=True)
    return 1 if failed else 0


@contextmanager
def noting(notes: Sequence[str]) -> Generator[None, None, None]:
    """Add notes to an error within the block: what was passed over may be its reason."""
    try:
        yield
    except Exception as error:
        for note in notes:
            error.add_note(note)
        raise


def say_notes(notes: Sequence[str], quiet: bool = False) -> None:
    """Print notes, unless nobody wants them."""
    if quiet:
        return
    for note in notes[:MOST]:
        echo(f"note: {printable(note)}", err=True)
    if notes[MOST:]:
        echo(f"note: and {len(notes) - MOST} more notes; `wncore inspect` lists them", err=True)
