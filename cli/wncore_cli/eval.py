"""``wncore eval``: the perplexity of a model."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wncore_cli import echo, model_options, options, printable
from wncore_cli.tables import number, table

if TYPE_CHECKING:
    from wncore.evaluation import Begin, Convention, Evaluation, Plan
    from wncore.sources import Work


@click.command(short_help="Judge a language model by the perplexity of a text.")
@click.argument("model", type=options.SOURCE)
@model_options.TEXT
@click.option("-o", "--output", type=options.SOURCE, help="Write the result to a .json file.")
@options.FORCE
@options.JSON
@model_options.DRY_RUN
@click.option(
    "--convention",
    type=click.Choice(["windows", "harness"]),
    default="windows",
    show_default=True,
    help="harness: the rolling windows of lm-evaluation-harness, and word perplexity.",
)
@click.option(
    "--bos",
    type=click.Choice(["auto", "yes", "no"]),
    default="no",
    show_default=True,
    help="Begin every window with the token for it; auto: as the tokenizer does.",
)
@model_options.WINDOWS
@model_options.MODEL_LENGTH
@model_options.DTYPE
@model_options.BATCH
@model_options.MODEL_DEVICE
@model_options.THREADS
@options.QUIET
@options.DEBUG
def eval(
    model: Path,
    texts: tuple[Path, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
    dry_run: bool,
    convention: "Convention",
    bos: "Begin",
    windows: int | None,
    length: int | None,
    dtype: str,
    batch: int,
    device: str | None,
    threads: int | None,
    quiet: bool,
) -> None:
    """Judge a language model by the perplexity of a text.

    MODEL is the folder of a Hugging Face model in safetensors. It is run block by block, the weights of one block in
    memory at a time.

    Perplexities compare only where tokenizer, convention, length, BOS and text are the same: all are printed. Bits per
    byte compare models of different tokenizers.

    \b
    wncore eval model/ --text wiki.test.raw
    wncore eval model/ --text wiki.test.raw --convention harness --json
    wncore eval model/ --text a.txt --text b.txt --windows 16 --dry-run
    """  # noqa: D301
    from wncore.evaluation import check_target, evaluation_document, write_document
    from wncore.results import to_json
    from wncore.sources import get_source
    from wncore_cli.resource_tables import resources_document, resources_table

    if output:
        check_target(output, force)
    work = get_source(model).evaluate(
        model,
        texts,
        dtype=dtype,
        device=device,
        length=length,
        windows=windows,
        batch=batch,
        bos=bos,
        convention=convention,
        threads=threads,
    )
    names = [printable(str(text)) for text in texts]
    found: list[Plan] = list(work.plans) if dry_run else list(_run(work, quiet))
    measured, effort = (None, work.effort()) if dry_run else (work.measured(), ())
    settings = {"version": version("wncore"), "dry_run": dry_run}
    document = evaluation_document(printable(str(model)), names, found, settings)
    if output and not dry_run:
        write_document(output, document, force)
    if as_json:
        echo(to_json(document | resources_document(work, measured, effort=effort)))
    else:
        shown = _planned(names, found) if dry_run else _judged(names, found)
        echo(f"{shown}\n\n{resources_table(work, measured, effort=effort)}")


def _run(work: "Work[Plan, Evaluation]", quiet: bool) -> list["Evaluation"]:
    from wncore_cli.progress import describe, progress

    with progress(work.steps, "batches", quiet) as bar:
        return list(work.run(bar.update, lambda name: describe(bar, name)))


def _planned(names: list[str], plans: list["Plan"]) -> str:
    head = ["would be judged", "tokens", "windows", "length", "bos", "dtype", "convention"]
    return table(head, [[name, *_plan(one)] for name, one in zip(names, plans, strict=True)])


def _judged(names: list[str], found: list[Any]) -> str:
    words = any(one.convention == "harness" for one in found)
    head = ["text", "perplexity", *(["by words"] if words else []), "bits per byte"]
    head += ["tokens", "windows", "length", "bos", "dtype", "convention"]
    rows = [
        [
            name,
            number(one.perplexity),
            *([number(one.word_perplexity)] if words else []),
            number(one.bits_per_byte),
            *_plan(one),
        ]
        for name, one in zip(names, found, strict=True)
    ]
    return table(head, rows)


def _plan(one: "Plan") -> list[str]:
    return [str(one.tokens), str(one.windows), str(one.length), "yes" if one.bos else "no", one.dtype, one.convention]
