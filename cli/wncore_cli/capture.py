"""``wncore capture``: what a model's layers read and give, as a dump."""

from pathlib import Path
from typing import Any

import click

from wncore_cli import echo, failures, model_options, options, printable
from wncore_cli.choice import match_layers
from wncore_cli.reading import named_layers


@click.command(short_help="Write a model's activations as a dump.")
@click.argument("model", type=options.SOURCE)
@click.option("-o", "--output", required=True, type=options.SOURCE, metavar="FOLDER", help="The dump; must not exist.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(["input", "output", "weight"]),
    help="What of each layer; may be repeated. Default: all.",
)
@options.LAYERS
@model_options.READ
@model_options.WINDOWS
@model_options.MODEL_LENGTH
@model_options.DTYPE
@model_options.BATCH
@model_options.MODEL_DEVICE
@model_options.DRY_RUN
@options.JSON
@model_options.THREADS
@options.QUIET
@options.DEBUG
def capture(
    model: Path,
    output: Path,
    parts: tuple[str, ...],
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    text: Path | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **opening: Any,
) -> None:
    """Run a Hugging Face model on a text, and write what its linear layers read and give, and their weights.

    The dump has a file for each block; every other command takes it: score, prune, expand, inspect.

    \b
    wncore capture model/ --text text.txt -o dump --layer mlp --windows 8
    wncore score dump
    """  # noqa: D301
    from wncore.errors import listed
    from wncore.resources import size
    from wncore.results import to_json
    from wncore_cli.progress import describe, progress
    from wncore_cli.resource_tables import resources_document, resources_table

    given = {name: value for name, value in opening.items() if value is not None}
    source = model_options.open_model(model, text, given)
    chosen = match_layers(list(source.layers), *named_layers(source.groups, layers, exclude))
    wanted = parts or ("input", "output", "weight")
    needed = source.bytes_captured(chosen, wanted)
    source.check_capture(output, needed)
    failures.say_notes(source.notes(), quiet)
    described = source.described(chosen)
    source.foretell(chosen, wanted, 0)
    if not dry_run:
        starved: list[str] = []
        with progress(source.tokens * len(chosen), "rows", quiet, scale=True) as bar:
            written = source.capture(
                chosen,
                output,
                parts=wanted,
                tick=bar.update,
                named=lambda name: describe(bar, name),
                starved=lambda name, _: starved.append(name),
            )
        needed = written.bytes
        if starved:
            failures.say_notes([f"{len(starved)} layers read no token, and are left out: {listed(starved)}"], quiet)
    measured = None if dry_run else source.measured()
    if as_json:
        described |= {"schema": "wncore.capture/1", "output": printable(str(output)), "bytes": needed}
        echo(to_json(described | {"layers": chosen, "dry_run": dry_run} | resources_document(source, measured, needed)))
        return
    verb = "would take" if dry_run else "holds"
    echo(
        f"{printable(str(output))} {verb} {len(chosen)} layers on {described['windows']} windows of "
        f"{described['length']} tokens in {described['dtype']}, {size(needed)}\n\n"
        f"{resources_table(source, measured, needed)}"
    )
