"""``wncore score``: distances, errors and statistics of every neuron."""

from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wncore_cli import echo, failures, model_options, options, pictures, plans, printable, score_models
from wncore_cli.choice import demand_activations, idle_patterns, match_layers
from wncore_cli.reading import Reading, named_layers, open_reading

if TYPE_CHECKING:
    from wncore.failures import Failure
    from wncore.scoring import LayerScore


@click.command(short_help="Score the neurons of a dump or a model.")
@click.argument("sources", nargs=-1, required=True, type=options.SOURCE)
@click.option(
    "-o", "--output", type=options.SOURCE, help="Write all neurons to a .parquet, .csv, .json or .safetensors file."
)
@options.FORCE
@options.JSON
@click.option("--against", type=options.SOURCE, help="A second dump of the same layers: report each neuron's change.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(0), help="Neurons to list.")
@options.LAYERS
@click.option("--plot", type=options.SOURCE, metavar="DIR", help="Draw the scores into this folder.")
@click.option(
    "--estimator",
    type=click.Choice(["exact", "streaming", "sampled"]),
    help="Default: exact for dumps, streaming for models. sampled: the paper's, against a Gaussian sample.",
)
@click.option("--streaming", is_flag=True, help="One pass, certified bounds: --estimator streaming.")
@click.option("--exact", multiple=True, metavar="GLOB", type=options.Text(), help="Score these layers exactly.")
@click.option(
    "--pairs",
    default=50_000,
    show_default=True,
    type=click.IntRange(0),
    help="Pairs of tokens for the mapping difficulty; 0: none.",
)
@options.SKIP_TOKENS
@options.LENGTH
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the pairs and of the sample.")
@model_options.BESIDE_DUMPS
@options.common
def score(
    sources: tuple[Path, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
    against: Path | None,
    top: int,
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    plot: Path | None,
    estimator: str | None,
    streaming: bool,
    exact: tuple[str, ...],
    pairs: int,
    skip_tokens: int,
    seed: int,
    memory: int,
    quiet: bool,
    **opening: Any,
) -> int:
    """Score every neuron by the Wasserstein distance of its outputs to a Gaussian.

    SOURCES are safetensors dumps: files, an index of shards, or folders of them, taken together as one dump. Or one
    folder of a Hugging Face model, which reads --text block by block; then --layer and --exclude also take mlp,
    attention and all.

    The distance (WD) is 0 for a Gaussian and at most 1.4142; a Gaussian neuron stays under the noise floor 19 times in
    20. MD, the mapping difficulty, needs the layer's inputs. Wasserstein neurons are the top 1 to 3 % of a layer.

    \b
    wncore score acts.safetensors
    wncore score dump/ --layer '*.up_proj' --top 20 -o scores.parquet
    wncore score dense.safetensors --against sparse.safetensors
    wncore score model/ --text text.txt --layer mlp
    """  # noqa: D301
    from wncore.errors import InputError
    from wncore.layers.activations import open_layers
    from wncore.results import check_target, score_document, to_json, write_scores

    if output:
        check_target(output, force)
    reading = open_reading(
        sources,
        "scorable",
        layers=layers,
        exclude=exclude,
        skip_tokens=skip_tokens,
        memory=memory,
        quiet=quiet,
        parts=("input", "output") if pairs else ("output",),
        **opening,
    )
    estimator = "streaming" if streaming else estimator or ("streaming" if reading.model else "exact")
    settings = {"seed": seed, "pairs": pairs, "estimator": estimator}
    exactly = _exact_layers(reading, exact, estimator, quiet)
    if reading.model:
        _refuse_for_models(against, plot)
        score_models.foretell(reading, memory, pairs)
        if opening["dry_run"]:
            effort = score_models.effort(reading, settings, exactly)
            return plans.show_plan("score", reading, reading.described, effort, as_json)
    failed = reading.failed
    files = _pictures(plot, reading.names, force)
    other = _second_dump(against, opening["length"]) if against else None
    rivals = _rivals(reading, other, skip_tokens, failed, quiet) if other else {}
    read = [*(reading.dump.files if reading.dump else ()), *(other.files if other else ())]
    if output and output.resolve() in {path.resolve() for path in read}:
        raise InputError(f"{output} is part of the dump that is read; write the scores to another file")
    opened_rivals = open_layers(rivals.values(), reading.engine, skip_tokens=skip_tokens, memory=memory)
    others = {one.name: one for one in opened_rivals}
    dense, sparse = _run(reading, others, settings, exactly, quiet)
    failures.demand_some(dense, failed)
    if output or as_json:
        described = {"version": version("wncore"), "backend": reading.backend, "seed": seed, "skip_tokens": skip_tokens}
        described |= settings | ({"exact": list(exact)} if exact else {}) | reading.described
        described |= failures.documented(failed)
        second = (printable(str(against)), sparse) if other else None
        document = score_document(reading.source, dense, described, second)
        if output:
            write_scores(output, dense, document, force)
        if as_json:
            echo(to_json(document | score_models.resources(reading)))
    if not as_json:
        _print(dense, sparse, top)
        if reading.model:
            echo(score_models.summary(dense, reading))
    missing: list[str] = []
    drawn = {one.name: one for one in reading.open(lambda _: None)} if files else {}
    for result in dense if files else ():
        from wncore_cli import plots

        drawing = (drawn[result.name], result, files[result.name], force)
        pictures.draw(plots.draw, *drawing, failed=missing, silent=quiet)
    return max(failures.report(failed), pictures.report(missing))


def _exact_layers(reading: Reading, patterns: tuple[str, ...], estimator: str, quiet: bool) -> Collection[str]:
    """Name the layers that are scored exactly, whatever the others are."""
    if not patterns:
        return ()
    if estimator == "exact":
        raise click.UsageError(
            "--exact has no effect where all layers are scored exactly; leave it out, or score the others --streaming"
        )
    groups = reading.model.groups if reading.model else {}
    chosen, _ = named_layers(groups, patterns, ())
    found = match_layers(reading.names, chosen, option="--exact")
    failures.say_notes(idle_patterns([*reading.names, *groups], exact=patterns), quiet)
    return set(found)


def _refuse_for_models(against: Path | None, plot: Path | None) -> None:
    from wncore.errors import InputError

    for name, given in (("--against", against), ("--plot", plot)):
        if given:
            raise InputError(f"{name} is for dumps; capture the model's activations first: wncore capture MODEL --text")


def _second_dump(path: Path, length: int | None) -> Any:
    """Open the second dump."""
    from wncore.dumps import open_dump

    other = open_dump(path, length=length)
    demand_activations(other, "scorable")
    return other


def _rivals(reading: Reading, other: Any, skip_tokens: int, failed: list["Failure"], quiet: bool) -> dict[str, Any]:
    """Find the chosen layers in the second dump; without its rival, a layer is scored, and not compared."""
    from wncore.dumps.selection import choose
    from wncore.errors import InputError, ShapeError, listed
    from wncore.failures import Failure, first_of

    chosen = [reading.dump.layers[name] for name in reading.names]
    missing = [layer.name for layer in chosen if layer.name not in other.layers]
    if missing:
        raise InputError(
            f"--against {other.source} lacks {', '.join(missing[:3])}; choose layers that both have: --layer"
        )
    found = choose(other, [layer.name for layer in chosen], "scorable", skip_tokens)
    if found.lacking:
        raise InputError(f"--against {other.source} has no outputs of {listed(found.lacking)}")
    rivals, wrong = {layer.name: layer for layer in found.ready}, list(found.failed)
    for layer in chosen:
        if layer.name in rivals and rivals[layer.name].neurons != layer.neurons:
            neurons = rivals.pop(layer.name).neurons
            text = f"{layer.name} has {layer.neurons} neurons, and {neurons} in {other.source}"
            wrong.append(Failure(layer.name, ShapeError(text)))
    if not rivals:
        raise first_of(wrong)
    failed += wrong
    notes = [*other.notes, *(f"of {other.source}: {note}" for note in found.notes)]
    uneven = [layer.name for layer in chosen if layer.name in rivals and rivals[layer.name].rows != layer.rows]
    if uneven:
        notes.append(
            f"the two dumps have different numbers of tokens for {listed(uneven)}; fewer tokens raise the "
            f"distance of every neuron (see the noise floors)"
        )
    failures.say_notes(notes, quiet)
    return rivals


def _pictures(folder: Path | None, names: list[str], force: bool) -> dict[str, dict[str, Path]]:
    if folder is None:
        return {}
    from wncore_cli import plots

    return dict(zip(names, plots.targets(folder, names, force), strict=True))


def _run(
    reading: Reading, others: dict[str, Any], settings: dict[str, Any], exactly: Collection[str], quiet: bool
) -> tuple[list["LayerScore"], dict[str, "LayerScore"]]:
    """Score the layers, and those of the second dump; one that fails is noted, and the next one begun."""
    from wncore.errors import WncoreError
    from wncore.failures import attempt
    from wncore.scoring import score_layer
    from wncore_cli.progress import describe, progress

    fail = failures.recorder(reading.failed)
    total = reading.numbers + sum(one.tokens.count * one.layer.neurons for one in others.values())
    dense: list[LayerScore] = []
    sparse: dict[str, LayerScore] = {}
    with progress(total, "outputs", quiet, scale=True) as bar:
        for one in reading.open(bar.update):
            describe(bar, one.name)
            with attempt(one.name, fail):
                chosen: dict[str, Any] = settings | {"estimator": "exact"} if one.name in exactly else settings
                dense.append(score_layer(one, **chosen))
            del one  # its outputs need not wait while those of the next are read
        for one in (others[score.name] for score in dense if score.name in others):
            describe(bar, one.name)
            with attempt(one.name, lambda name, error: fail(name, WncoreError(f"of the second dump: {error}"))):
                sparse[one.name] = score_layer(one.telling(bar.update), **settings)
    return dense, sparse


def _print(scores: list["LayerScore"], against: dict[str, "LayerScore"], top: int) -> None:
    from wncore_cli.score_tables import change_table, flag_lines, layers_table, top_table

    parts = [layers_table(scores)]
    parts += [top_table(scores, top)] if top else []
    parts += [change_table(scores, against, top)] if against else []
    echo("\n\n".join(parts))
    for line in flag_lines(scores):
        echo(line)
