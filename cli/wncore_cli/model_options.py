"""Options of verbs on models, and how a model is opened by them."""

from pathlib import Path
from typing import Any

import click

from wncore_cli import options

TEXT = click.option("--text", type=options.SOURCE, help="Models: the UTF-8 text that it reads.")
WINDOWS = click.option(
    "--windows", type=click.IntRange(1), help="Models: the most windows of the text; default: all, at most 128."
)
LENGTH = click.option(
    "--length", type=click.IntRange(2), help="Tokens of a window; default: 2048, or what the model was made for."
)
DTYPE = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16", "float64"]),
    help="Models: what the forward is computed in; default: float32.",
)
BATCH = click.option("--batch", type=click.IntRange(1), help="Models: windows that run together; default: 4.")
SKIP_NORM = click.option(
    "--skip-norm",
    type=options.Number(1),
    help="Models: leave out tokens whose input is so many times longer than the median; sinks are, by 10.",
)
DEVICE = click.option("--device", type=options.Text(), help="Where the model runs; default: a GPU, if there is one.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, and what it takes; do nothing.")


def open_model(path: Path, text: Path | None, given: dict[str, Any]) -> Any:
    """Open a model that reads a text; `given` are the options that were given.

    Raises
    ------
    InputError
        If the path is no model, or there is no text.
    """
    from wncore.errors import InputError
    from wncore.sources import get_source

    source = get_source(path)
    if text is None:
        raise InputError(f"{path} is a model, and models are looked at while they read; name a text file with --text")
    return source.open(path, text, **given)
