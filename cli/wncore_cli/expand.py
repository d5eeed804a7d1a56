"""``wncore expand``: layers of a dump as sparse experts, and the report on what that cost and disentangled."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from wncore_cli import options, printable, pruning_options

if TYPE_CHECKING:
    from wncore.experts.expansion import ExpandSpec, LayerExpansion


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
) -> None:
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
    from wncore.dumps.dump import expandable_layers
    from wncore.experts.conditions import conditions
    from wncore.experts.results import expand_document
    from wncore.files import release
    from wncore.layers.activations import open_layers
    from wncore.results import to_json
    from wncore_cli import expand_plots, plots

    spec = _spec(chosen, experts, sparsity, by_neuron, plot, packed, output)
    if neurons and not plot:
        raise click.UsageError("--neuron has no effect without --plot; name a folder for the pictures")
    dump = open_dump(*sources, length=length)
    names = options.match_layers(list(dump.layers), layers)
    ready = expandable_layers(dump, names)
    specs = [replace(spec, prune=one) for one in pruning_options.specs_of(ready, spec.prune, by_neuron)]
    files = _files(output, specs[0])
    pruning_options.check_files(files, [*dump.files, *([by_neuron] if by_neuron else [])], force)
    pictures = plots.targets(plot, [layer.name for layer in ready], force, expand_plots.KINDS) if plot else []
    engine = options.make_backend(backend, device, threads)
    reading = {key: chosen[key] for key in ("holdout", "skip_tokens")}
    opened = open_layers(ready, engine, memory=memory, **reading)
    _check(opened, specs, neurons, spooled=output is not None)

    place = {layer.name: i for i, layer in enumerate(ready)}
    expansions: dict[str, list[LayerExpansion]] = {}
    work = {key: chosen[key] for key in ("wasserstein", "pairs")} | {"spool": output.parent if output else None}
    for runs in _run(opened, specs, work, quiet):
        name = runs[0].name
        if plot:
            expand_plots.draw(opened[place[name]], runs, neurons, pictures[place[name]], force)
        expansions[name] = [run if output and not run.control else replace(run, weights=None) for run in runs]
        for run in expansions[name]:
            if run.weights is not None:
                release(run.weights)
    found = [expansions[layer.name] for layer in ready]
    if not quiet:
        for note in _notes(dump, names, found, output):
            click.echo(f"note: {printable(note)}", err=True)
    settings = conditions(engine, memory) | reading
    settings |= {"pairs": work["pairs"] if work["wasserstein"] else None, "length": length, "seed": chosen["seed"]}
    settings |= {"by_neuron": printable(str(by_neuron))} if by_neuron else {}
    _save(files, dump, ready, found, settings, packed, force)
    if as_json:
        click.echo(to_json(expand_document(printable(dump.source), found, settings)))
    else:
        _print(found, by_expert, top)


def _spec(
    chosen: dict[str, Any],
    experts: tuple[int, ...],
    patterns: tuple,
    by_neuron: Path | None,
    plot: Path | None,
    packed: bool,
    output: Path | None,
) -> "ExpandSpec":
    """Build the specification from the options that were given; refuse those that do not go together."""
    from wncore.experts.expansion import PRIOR, ExpandSpec
    from wncore.experts.fitting import ClusterSpec

    prune = pruning_options.read_spec(chosen, patterns, by_neuron, plot)

    def given(name: str) -> bool:
        source = click.get_current_context().get_parameter_source(name.replace("-", "_"))
        return source is ParameterSource.COMMANDLINE

    for idle, what in (
        (packed and not output, "--packed has no effect without -o"),
        (given("pairs") and not chosen["wasserstein"], "--pairs has no effect with --no-wasserstein"),
        (experts == (0,) and len(patterns) > 1, "--experts auto finds one number, and there are several sparsities"),
        (experts == (1,) and chosen["controls"], "--controls has no effect on one expert"),
    ):
        if idle:
            raise click.UsageError(f"{what}; leave one of the two out")
    clusters = ClusterSpec(
        components=chosen["components"],
        restarts=chosen["restarts"],
        seed=chosen["seed"],
        balanced=chosen["balanced"],
        least_tokens=chosen["min_tokens"],
    )
    prior = chosen["prior"]
    if prior is None:
        prior = 0.0 if chosen["published"] else PRIOR
    return ExpandSpec(experts, prune, clusters, prior, chosen["ridge"], chosen["controls"])


def _files(output: Path | None, spec: "ExpandSpec") -> list[Path]:
    """Name a file for each run that is no control."""
    from wncore.files import sweep_paths

    if output is None:
        return []
    numbers, patterns = [str(k) for k in spec.experts], [str(pattern) for pattern in spec.prune.patterns]
    parts = [[k] * (len(numbers) > 1) + [each] * (len(patterns) > 1) for k in numbers for each in patterns]
    return sweep_paths(output, ["-".join(part) for part in parts])


def _check(opened: list, specs: list["ExpandSpec"], neurons: tuple[int, ...], spooled: bool) -> None:
    """Say before any work what cannot be done."""
    from wncore.errors import InputError
    from wncore.experts.layers import check_expandable

    for one, spec in zip(opened, specs, strict=True):
        check_expandable(one, spec, spool=spooled)
        if neurons and max(neurons) >= one.shape[0]:
            raise InputError(f"{one.name} has {one.shape[0]} neurons, from 0; --neuron {max(neurons)} is none")


def _run(
    opened: list, specs: list["ExpandSpec"], work: dict[str, Any], quiet: bool
) -> Iterator[list["LayerExpansion"]]:
    from wncore.experts.expansion import AUTO
    from wncore.experts.layers import expand_layers
    from wncore_cli.progress import describe, progress

    spec = specs[0]
    numbers = {1, *spec.experts}  # one expert is what others are compared with
    total = len(opened) * sum(k * (3 if spec.controls and k > 1 else 1) for k in numbers)
    with progress(None if AUTO in numbers else total, "experts", quiet, opened[0].name) as bar:
        for runs in expand_layers([one.telling(bar.update) for one in opened], specs, **work):
            describe(bar, runs[0].name)
            yield runs


def _notes(dump: Any, names: list[str], found: list[list["LayerExpansion"]], output: Path | None) -> list[str]:
    """Say what is passed over, what was not sound, and what is lost when the command ends."""
    notes = list(dump.notes[:20])
    rest = [name for name in names if not dump.layers[name].expandable]
    if rest:
        notes.append(f"{len(rest)} layers lack an input or a weight, and are left out: {', '.join(rest[:3])}")
    notes += [
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

    click.echo(settings_line(found))
    click.echo()
    click.echo(layers_table(found))
    if found[0][0].disentanglement is not None:
        click.echo()
        click.echo(disentanglement_table(found))
    if by_expert:
        click.echo()
        click.echo(experts_table(found))
    if top:
        click.echo()
        click.echo(neurons_table(found, top))
