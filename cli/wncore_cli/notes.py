"""Notes of the library, on stderr; --quiet keeps them away."""

import logging
from typing import Any

import click

from wncore_cli import printable


class _OnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print one note."""
        click.echo(f"note: {printable(record.getMessage())}", err=True)


def hear(ctx: click.Context, param: click.Parameter, quiet: Any) -> Any:
    """Print what the library has to say, unless --quiet is given: a callback of that option."""
    logging.getLogger("wncore").handlers = [logging.NullHandler() if quiet else _OnStderr()]
    return quiet
