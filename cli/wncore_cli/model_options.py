"""Options that the verbs on models share."""

from pathlib import Path

import click

from wncore_cli import options

TEXT = click.option(
    "--text",
    "texts",
    multiple=True,
    required=True,
    type=options.Source(path_type=Path),
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
    type=click.Choice(["float32", "bfloat16", "float16", "float64"]),
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
    "--dry-run", is_flag=True, help="Say what would be done, and what memory it would take; read no weights."
)
