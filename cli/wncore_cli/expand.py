"""``wncore expand``: layers of a dump as sparse experts, and the report on what that cost and disentangled."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wncore_cli import echo, expand_options, failures, options, pictures, printable, pruning_options
from wncore_cli.choice import choose_layers

if TYPE_CHECKING:
    from wncore.experts.expansion import ExpandSpec, LayerExpansion
    from wncore.failures import Fail, Failure


@click.command(short_help="Turn the layers of a dump into sparse experts.")
@click.argument("sources", nargs=-1, required=True, type=options.SOURCE)
@click.option("-o", "--output", type=options.SOURCE, help="Write the experts to this .safetensors file.")
@click.option("--packed", is_flag=True, help="Write bit masks and values in place of zeros.")
@options.FORCE
@options.JSON
@click.option(
    "--experts",
    default="16",
    show_default=True,
    type=options.Experts(),
    help="How many. A list (1,2,4,8,16) gives a file for each; auto doubles while the held-out error falls.",
)
@pruning_options.pruning
@click.option("--components", type=click.IntRange(1), help="Principal components to cluster in. [default: inputs / 32]")
@click.option("--restarts", default=10, show_default=True, type=click.IntRange(1), help="Of k-means; the best is kept.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of k-means, pairs and controls.")
@click.option("--balanced", is_flag=True, help="Clusters of equal size.")
@click.option(
    "--min-tokens",
    default=16,
    show_default=True,
    type=click.IntRange(1),
    help="Merge clusters with fewer calibration tokens.",
)
@click.option(
    "--prior",
    type=options.Number(0),
    help="Tokens, in units of the inputs, that a cluster borrows from the layer. [default: 0.1; published 0]",
)
@click.option("--controls", is_flag=True, help="Also: random clusters, and k experts that store as much as one.")
@options.LAYERS
@pruning_options.HOLDOUT
@click.option(
    "--wasserstein/--no-wasserstein",
    default=True,
    show_default=True,
    help="Score each neuron's outputs before and after.",
)
@click.option("--pairs", default=50_000, show_default=True, type=click.IntRange(0), help="For the mapping difficulty.")
@click.option("--by-expert", is_flag=True, help="Also list the experts of the last run.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(0), help="Neurons to list.")
@click.option("--plot", type=options.SOURCE, metavar="DIR", help="Draw what was disentangled into this folder.")
@click.option(
    "--neuron",
    "neurons",
    multiple=True,
    type=click.IntRange(0),
    metavar="INDEX",
    help="Draw the outputs of this one; may be repeated. [default: the most entangled, and a typical one]",
)
@options.SKIP_TOKENS
@options.LENGTH
@options.common
def expand(
    sources: tuple[Path, ...],
    output: Path | None,
    packed: bool,
    force: bool,
    as_json: bool,
    experts: tuple[int, ...],
    sparsity: tuple,
    by_neuron: Path | None,
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    by_expert: bool,
    top: int,
    plot: Path | None,
    neurons: tuple[int, ...],
    length: int | None,
    backend: str,
    device: str | None,
    memory: int,
    threads: int | None,
    quiet: bool,
    **chosen: Any,
) -> int:
    """Split the linear layers of a dump into sparse experts, by clustering their inputs.

    SOURCES are safetensors dumps with inputs and weights. Each expert is pruned from the dense weights on the tokens of
    its own cluster; a token goes to the expert of the nearest centroid. RI is the error (RMSE) of one expert over that
    of all, WD a neuron's distance to a Gaussian, weighted: within clusters.

    \b
    wncore expand acts.safetensors -o experts.safetensors --experts 16 --sparsity 0.8
    wncore expand acts.safetensors --experts 1,2,4,8,16 --sparsity 0.8 --controls
    wncore expand dump/ --layer '*.up_proj' --experts auto --sparsity 2:4 --plot pictures
    """  # noqa: D301
    from wncore.dumps import open_dump
    from wncore.experts.conditions import conditions
    from wncore.experts.results import expand_document
    from wncore.files import release
    from wncore.layers.activations import open_layers
    from wncore.results import to_json
    from wncore_cli import expand_plots, plots

    spec = expand_options.read_spec(chosen, experts, sparsity, by_neuron, plot, packed, output)
    if neurons and not plot:
        raise click.UsageError("--neuron has no effect without --plot; name a folder for the pictures")
    dump = open_dump(*sources, length=length)
    selection = choose_layers(dump, layers, exclude, "expandable", chosen["skip_tokens"], quiet)
    ready, failed = selection.ready, selection.failed
    sizes = {layer.name: layer.neurons for layer in ready}
    specs = [replace(spec, prune=one) for one in pruning_options.specs_of(sizes, spec.prune, by_neuron).values()]
    files = expand_options.name_files(output, specs[0])
    pruning_options.check_files(files, [*dump.files, *([by_neuron] if by_neuron else [])], force)
    targets = plots.targets(plot, [layer.name for layer in ready], force, expand_plots.KINDS) if plot else []
    engine = options.make_backend(backend, device, threads)
    reading = {key: chosen[key] for key in ("holdout", "skip_tokens")}
    opened = open_layers(ready, engine, memory=memory, **reading)
    able = _check(opened, specs, neurons, failed, spooled=output is not None)
    failures.demand_some(able, failed)

    place, missing = {layer.name: i for i, layer in enumerate(ready)}, []

    def draw(runs: list["LayerExpansion"]) -> None:
        i = place[runs[0].name]
        drawn = (opened[i], runs, neurons, targets[i], force)
        pictures.draw(expand_plots.draw, *drawn, failed=missing, silent=quiet)

    expansions: dict[str, list[LayerExpansion]] = {}
    work = {key: chosen[key] for key in ("wasserstein", "pairs")} | {"spool": output.parent if output else None}
    for runs in _run(able, work, failures.recorder(failed), quiet):
        if plot and not output:  # experts that nobody keeps are drawn at once
            draw(runs)
        kept = [run if output and (plot or not run.control) else replace(run, weights=None) for run in runs]
        expansions[runs[0].name] = kept
        for run in kept:
            if run.weights is not None:
                release(run.weights)
    found = [expansions[layer.name] for layer in ready if layer.name in expansions]
    failures.demand_some(found, failed)
    failures.say_notes(_notes(found, output), quiet)
    settings = conditions(engine, memory) | reading
    settings |= {"pairs": work["pairs"] if work["wasserstein"] else None, "length": length, "seed": chosen["seed"]}
    settings |= {"by_neuron": printable(str(by_neuron))} if by_neuron else {}
    settings |= failures.documented(failed)
    _save(files, dump, [layer for layer in ready if layer.name in expansions], found, settings, packed, force)
    if as_json:
        echo(to_json(expand_document(printable(dump.source), found, settings)))
    else:
        _print(found, by_expert, top)
    for runs in found if plot and output else ():
        draw(runs)
    return max(failures.report(failed), pictures.report(missing))


def _check(
    opened: list, specs: list["ExpandSpec"], neurons: tuple[int, ...], failed: list["Failure"], spooled: bool
) -> list[tuple[Any, "ExpandSpec"]]:
    """Say before any work what cannot be done; a layer with too few tokens fails alone."""
    from wncore.errors import InputError, TooFewTokensError
    from wncore.experts.layers import check_expandable
    from wncore.failures import Failure

    able = []
    for one, spec in zip(opened, specs, strict=True):
        try:
            check_expandable(one, spec, spool=spooled)
        except TooFewTokensError as error:
            failed.append(Failure(one.name, error))
            continue
        if neurons and max(neurons) >= one.shape[0]:
            raise InputError(f"{one.name} has {one.shape[0]} neurons, from 0; --neuron {max(neurons)} is none")
        able.append((one, spec))
    return able


def _run(
    able: list[tuple[Any, "ExpandSpec"]], work: dict[str, Any], fail: "Fail", quiet: bool
) -> Iterator[list["LayerExpansion"]]:
    from wncore.experts.expansion import AUTO
    from wncore.experts.layers import expand_layers
    from wncore_cli.progress import describe, progress

    specs = [spec for _, spec in able]
    spec = specs[0]
    numbers = {1, *spec.experts}  # one expert is what others are compared with
    total = len(able) * sum(k * (3 if spec.controls and k > 1 else 1) for k in numbers)
    with progress(None if AUTO in numbers else total, "experts", quiet, able[0][0].name) as bar:
        opened = [one.telling(bar.update) for one, _ in able]
        for runs in expand_layers(opened, specs, fail=fail, **work):
            describe(bar, runs[0].name)
            yield runs


def _notes(found: list[list["LayerExpansion"]], output: Path | None) -> list[str]:
    """Say what was not sound, and what is lost when the command ends."""
    notes = [
        f"{run.name}, experts {len(run.zeros)}: {warning}"
        for runs in found
        for run in runs
        if not run.control
        for warning in run.warnings
    ]
    halves = [run.pattern for runs in found for run in runs if hasattr(run.pattern, "kept")]
    if halves and found[0][0].spec.controls:
        notes.append(f"no control of equal storage for {halves[0]}: no part of N:M can be taken")
    if any(runs[0].errors.relative_error_holdout is None for runs in found):
        notes.append("no tokens were held out: the errors are those on the calibration tokens alone")
    if output is None:
        notes.append("the experts were not kept; -o FILE.safetensors keeps them")
    return notes


def _save(
    files: list[Path],
    dump: Any,
    layers: list,
    found: list[list["LayerExpansion"]],
    settings: dict[str, Any],
    packed: bool,
    force: bool,
) -> None:
    """Write the experts of each run that is no control, with the report on them but for its neurons."""
    from wncore.experts.digests import source_digests
    from wncore.experts.files import save_experts
    from wncore.experts.results import expand_document

    if not files:
        return
    settings |= {"inputs": source_digests(layers)}
    kept = [[run for run in runs if not run.control] for runs in found]
    for path, run in zip(files, zip(*kept, strict=True), strict=True):
        document = expand_document(printable(dump.source), [[one] for one in run], settings, neurons=False)
        save_experts(path, [one.experts for one in run if one.experts], document, packed, force)


def _print(found: list[list["LayerExpansion"]], by_expert: bool, top: int) -> None:
    from wncore_cli.expand_tables import (
        disentanglement_table,
        experts_table,
        layers_table,
        neurons_table,
        settings_line,
    )

    echo(settings_line(found))
    echo()
    echo(layers_table(found))
    if found[0][0].disentanglement is not None:
        echo()
        echo(disentanglement_table(found))
    if by_expert:
        echo()
        echo(experts_table(found))
    if top:
        echo()
        echo(neurons_table(found, top))
