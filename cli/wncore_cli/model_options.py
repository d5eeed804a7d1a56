"""Options that the verbs on models share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from wncore_cli import options

DTYPES = "float32", "bfloat16", "float16", "float64"
TEXT = click.option(
    "--text",
    "texts",
    multiple=True,
    required=True,
    type=options.SOURCE,
    metavar="FILE",
    help="A UTF-8 text; may be repeated.",
)
WINDOWS = click.option(
    "--windows", type=click.IntRange(1), help="The most windows of each text.  [default: all that it fills]"
)
MODEL_LENGTH = click.option(
    "--length", type=click.IntRange(2), help="Tokens of a window.  [default: 2048, or the model's limit if shorter]"
)
DTYPE = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="What the model computes in.",
)
BATCH = click.option(
    "--batch",
    default=4,
    show_default=True,
    type=click.IntRange(1),
    help="Windows that go through a block together.",
)
MODEL_DEVICE = click.option(
    "--device", type=options.Text(), help="Where the model runs: cpu, cuda, cuda:1.  [default: a GPU if there is one]"
)
THREADS = click.option("--threads", type=click.IntRange(1), help="Of the host.  [default: as many as torch takes]")
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Say what would be done, and what memory and time it would take; read no weights."
)
PLACES = click.option(
    "--seed", type=click.IntRange(0), help="Draw windows at random places, as prune does.  [default: disjoint windows]"
)
READ = click.option("--text", type=options.SOURCE, metavar="FILE", help="The UTF-8 text that the model reads.")


def PRUNING(command: Callable) -> Callable:
    """Add the options of pruning that only models know."""
    for option in (
        click.option(
            "--evaluate",
            multiple=True,
            type=options.SOURCE,
            metavar="FILE",
            help="Models: a text to judge the result by, its perplexity; may be repeated.",
        ),
        click.option(
            "--calibration-order",
            type=click.Choice(["dense", "published", "sequential"]),
            help="Models: inputs of the dense model; of the blocks pruned before; of all layers pruned before. "
            "[default: published]",
        ),
        click.option("--seed", type=click.IntRange(0), help="Models: of the places of the windows; 0."),
    ):
        command = option(command)
    return command


def BESIDE_DUMPS(command: Callable) -> Callable:
    """Add the options of a verb that takes dumps, too, which know none of these."""
    for option in (
        click.option(
            "--dry-run", is_flag=True, help="Models: say what would be done, and what memory and time it would take."
        ),
        click.option(
            "--skip-norm",
            type=options.Number(1),
            help="Models: leave out tokens whose input is so many times longer than the median; sinks are, by 10.",
        ),
        click.option("--batch", type=click.IntRange(1), help="Models: windows that go through a block together; 4."),
        click.option("--dtype", type=click.Choice(DTYPES), help="Models: what they compute in; float32."),
        click.option("--windows", type=click.IntRange(1), help="Models: the most windows; 128."),
        click.option("--text", type=options.SOURCE, metavar="FILE", help="Models: the UTF-8 text that they read."),
    ):
        command = option(command)
    return command


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
