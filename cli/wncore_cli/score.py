"""``wncore score``: distances, errors and statistics of every neuron."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wncore_cli import options, printable

if TYPE_CHECKING:
    from wncore.scoring import LayerScore


@click.command(short_help="Score the neurons of a dump.")
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
    default="exact",
    show_default=True,
    help="sampled: the paper's, against a Gaussian sample.",
)
@click.option("--streaming", is_flag=True, help="One pass, certified bounds: --estimator streaming.")
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
@options.common
def score(
    sources: tuple[Path, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
    against: Path | None,
    top: int,
    layers: tuple[str, ...],
    plot: Path | None,
    estimator: str,
    streaming: bool,
    pairs: int,
    skip_tokens: int,
    length: int | None,
    backend: str,
    device: str | None,
    seed: int,
    memory: int,
    threads: int | None,
    quiet: bool,
) -> None:
    """Score every neuron by the Wasserstein distance of its outputs to a Gaussian.

    SOURCES are safetensors dumps: files, an index of shards, or folders of them, taken together as one dump.

    The distance (WD) is 0 for a Gaussian and at most 1.4142; a Gaussian neuron stays under the noise floor 19 times in
    20. MD, the mapping difficulty, needs the layer's inputs. Wasserstein neurons are the top 1 to 3 % of a layer.

    \b
    wncore score acts.safetensors
    wncore score dump/ --layer '*.up_proj' --top 20 -o scores.parquet
    wncore score dense.safetensors --against sparse.safetensors
    """  # noqa: D301
    from wncore.dumps import open_dump
    from wncore.errors import InputError
    from wncore.layers.activations import open_layers
    from wncore.results import check_target, score_document, to_json, write_scores

    estimator = "streaming" if streaming else estimator
    if output:
        check_target(output, force)
    dump = open_dump(*sources, length=length)
    chosen = _choose(dump, layers)
    pictures = _pictures(plot, [layer.name for layer in chosen], force)
    other = open_dump(against, length=length) if against else None
    rivals = _rivals(chosen, other) if other else {}
    if output and output.resolve() in {path.resolve() for path in [*dump.files, *(other.files if other else [])]}:
        raise InputError(f"{output} is part of the dump that is read; write the scores to another file")
    engine = options.make_backend(backend, device, threads)
    settings = {"seed": seed, "pairs": pairs, "estimator": estimator}

    opened = open_layers([*chosen, *rivals.values()], engine, skip_tokens=skip_tokens, memory=memory)
    scores = _run(opened, settings, quiet)
    if not quiet:
        for note in _notes(dump, layers, chosen, other, rivals):
            click.echo(f"note: {printable(note)}", err=True)
    dense, sparse = scores[: len(chosen)], {score.name: score for score in scores[len(chosen) :]}
    if output or as_json:
        described = {"version": version("wncore"), "backend": backend, "seed": seed, "skip_tokens": skip_tokens}
        described |= settings
        second = (printable(str(against)), sparse) if other else None
        document = score_document(printable(dump.source), dense, described, second)
        if output:
            write_scores(output, dense, document, force)
        if as_json:
            click.echo(to_json(document))
    if not as_json:
        _print(dense, sparse, top)
    if pictures:
        from wncore_cli import plots

        for one, result, files in zip(opened, dense, pictures, strict=False):
            plots.draw(one, result, files, force)


def _choose(dump: Any, patterns: tuple[str, ...]) -> list:
    from wncore.dumps.dump import scorable_layers

    return scorable_layers(dump, options.match_layers(list(dump.layers), patterns))


def _notes(dump: Any, patterns: tuple[str, ...], chosen: list, other: Any, rivals: dict[str, Any]) -> list[str]:
    """Say what is passed over, and what makes a comparison unfair."""
    notes = [*dump.notes[:20], *(other.notes[:20] if other else [])]
    names = {layer.name for layer in chosen}
    rest = [name for name in options.match_layers(list(dump.layers), patterns) if name not in names]
    if rest:
        notes.append(f"{len(rest)} layers have weights only and are left out: {', '.join(rest[:3])}")
    uneven = [layer.name for layer in chosen if rivals and rivals[layer.name].rows != layer.rows]
    if uneven:
        notes.append(
            f"the two dumps have different numbers of tokens for {', '.join(uneven[:3])}; fewer tokens raise the "
            f"distance of every neuron (see the noise floors)"
        )
    return notes


def _rivals(chosen: list, other: Any) -> dict[str, Any]:
    """Find the chosen layers in the second dump."""
    from wncore.dumps.dump import scorable_layers
    from wncore.errors import InputError

    missing = [layer.name for layer in chosen if layer.name not in other.layers]
    if missing:
        raise InputError(
            f"--against {other.source} lacks {', '.join(missing[:3])}; choose layers that both have: --layer"
        )
    rivals = {layer.name: layer for layer in scorable_layers(other, [layer.name for layer in chosen])}
    for layer in chosen:
        if layer.name not in rivals:
            raise InputError(f"--against {other.source} has no outputs of {layer.name}")
        if rivals[layer.name].neurons != layer.neurons:
            raise InputError(
                f"{layer.name} has {layer.neurons} neurons, and {rivals[layer.name].neurons} in {other.source}"
            )
    return rivals


def _pictures(folder: Path | None, names: list[str], force: bool) -> list[dict[str, Path]]:
    if folder is None:
        return []
    from wncore_cli import plots

    return plots.targets(folder, names, force)


def _run(opened: list, settings: dict[str, Any], quiet: bool) -> list["LayerScore"]:
    from wncore.scoring import score_layer
    from wncore_cli.progress import describe, progress

    total = sum(one.tokens.count * one.layer.neurons for one in opened)
    with progress(total, "outputs", quiet, scale=True) as bar:
        results = []
        for one in opened:
            describe(bar, one.name)
            results.append(score_layer(one.telling(bar.update), **settings))
    return results


def _print(scores: list["LayerScore"], against: dict[str, "LayerScore"], top: int) -> None:
    from wncore_cli.score_tables import change_table, flag_lines, layers_table, top_table

    parts = [layers_table(scores)]
    parts += [top_table(scores, top)] if top else []
    parts += [change_table(scores, against, top)] if against else []
    click.echo("\n\n".join(parts))
    for line in flag_lines(scores):
        click.echo(line)
