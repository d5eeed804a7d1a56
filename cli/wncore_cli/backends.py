"""``wncore backends``: what is installed."""

import click

from wncore_cli import echo
from wncore_cli.tables import table


@click.command()
def backends() -> None:
    """List the installed backends, without importing them."""
    from wncore.backend import available

    echo(table(["backend", "where"], sorted(available().items())))
