"""``wncore prune``: sparse weights from a dump, and the report on them."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wncore_cli import echo, failures, options, pictures, printable, pruning_options
from wncore_cli.choice import choose_layers

if TYPE_CHECKING:
    from wncore.layer_pruning import LayerPruning


@click.command(short_help="Prune the layers of a dump.")
@click.argument("sources", nargs=-1, required=True, type=options.SOURCE)
@click.option("-o", "--output", type=options.SOURCE, help="Write the pruned weights to this .safetensors file.")
@options.FORCE
@options.JSON
@pruning_options.pruning
@options.LAYERS
@pruning_options.HOLDOUT
@click.option(
    "--wasserstein/--no-wasserstein",
    default=True,
    show_default=True,
    help="Score each neuron's outputs before and after.",
)
@click.option("--top", default=5, show_default=True, type=click.IntRange(0), help="Neurons to list.")
@click.option("--plot", type=options.SOURCE, metavar="DIR", help="Draw errors and outputs into this folder.")
@options.SKIP_TOKENS
@options.LENGTH
@options.common
def prune(
    sources: tuple[Path, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
    sparsity: tuple,
    by_neuron: Path | None,
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    top: int,
    plot: Path | None,
    length: int | None,
    backend: str,
    device: str | None,
    memory: int,
    threads: int | None,
    quiet: bool,
    **chosen: Any,
) -> int:
    """Prune the linear layers of a dump, from its inputs (or their Gram matrices) and weights.

    SOURCES are safetensors dumps, as for score. The error is that of the layer's outputs, ||(W'-W)X||^2 / ||WX||^2,
    on the tokens that pruning saw and on those held out.

    \b
    wncore prune acts.safetensors -o pruned.safetensors --sparsity 0.5
    wncore prune acts.safetensors --sparsity 0.5,0.6,0.7,0.8
    wncore prune dump/ --layer '*.up_proj' --sparsity 2:4 --published
    """  # noqa: D301
    from wncore.dumps import open_dump
    from wncore.files import spool, sweep_paths
    from wncore.layers.activations import open_layers
    from wncore.prune_results import prune_document, write_pruned
    from wncore.results import to_json
    from wncore_cli import prune_plots

    spec = pruning_options.read_spec(chosen, sparsity, by_neuron, plot)
    dump = open_dump(*sources, length=length)
    selection = choose_layers(dump, layers, exclude, "prunable", chosen["skip_tokens"], quiet)
    ready, failed = selection.ready, selection.failed
    specs = pruning_options.specs_of({layer.name: layer.weight.rows for layer in ready}, spec, by_neuron)
    sparsity = specs[ready[0].name].patterns
    files = sweep_paths(output, [str(pattern) for pattern in sparsity]) if output else []
    pruning_options.check_files(files, [*dump.files, *([by_neuron] if by_neuron else [])], force)
    targets = _pictures(plot, ready, sparsity, force)
    engine = options.make_backend(backend, device, threads)

    reading = {key: chosen[key] for key in ("holdout", "skip_tokens")}
    opened = open_layers(ready, engine, memory=memory, **reading)
    by_name, missing = {one.name: one for one in opened}, []

    def draw(results: list["LayerPruning"]) -> None:
        for result, own in zip(results, targets.get(results[0].name, ()), strict=bool(targets)):
            drawn = (by_name[result.name], result, own, force)
            pictures.draw(prune_plots.draw, *drawn, failed=missing, silent=quiet)

    prunings = []
    work = {"ridge": chosen["ridge"], "wasserstein": chosen["wasserstein"], "fail": failures.recorder(failed)}
    for results in _run(opened, specs, quiet, **work):
        if plot and not output:  # weights that nobody keeps are drawn at once
            draw(results)
        waiting = [spool(one.weight, output.parent) if output and one.weight is not None else None for one in results]
        prunings.append([replace(result, weight=weight) for result, weight in zip(results, waiting, strict=True)])
    failures.demand_some(prunings, failed)
    failures.say_notes(_notes(prunings, output, plot), quiet)
    settings = {"version": version("wncore"), "backend": backend, **reading}
    settings |= {"by_neuron": printable(str(by_neuron))} if by_neuron else {}
    settings |= failures.documented(failed)
    for i, path in enumerate(files):
        run = [results[i] for results in prunings]
        document = prune_document(printable(dump.source), [[one] for one in run], settings, neurons=False)
        write_pruned(path, [by_name[one.name].layer for one in run], run, document, force)
    if as_json:
        echo(to_json(prune_document(printable(dump.source), prunings, settings)))
    else:
        _print(prunings, top)
    for results in prunings if plot and output else ():
        draw(results)
    return max(failures.report(failed), pictures.report(missing))


def _pictures(folder: Path | None, layers: list, patterns: tuple, force: bool) -> dict[str, list[dict[str, Path]]]:
    """Name the pictures of each layer and pattern."""
    if folder is None:
        return {}
    from wncore_cli import plots, prune_plots

    suffix = [f"-{str(pattern).replace(':', 'of')}" if len(patterns) > 1 else "" for pattern in patterns]
    names = [layer.name + tail for layer in layers for tail in suffix]
    flat = plots.targets(folder, names, force, prune_plots.KINDS)
    return {layer.name: flat[i * len(patterns) : (i + 1) * len(patterns)] for i, layer in enumerate(layers)}


def _run(opened: list, specs: dict, quiet: bool, **settings: Any) -> Iterator[list["LayerPruning"]]:
    from wncore.layer_pruning import check_memory, prune_layers
    from wncore_cli.progress import describe, progress

    for one in opened:  # what cannot be done is said before any work
        check_memory(one, specs[one.name])
        specs[one.name].cells(*one.shape)
    with progress(len(opened), "layers", quiet, opened[0].name) as bar:

        def begun() -> Iterator[Any]:
            for one in opened:
                describe(bar, one.name)
                yield one
                bar.update()

        yield from prune_layers(begun(), specs, **settings)


def _notes(prunings: list[list["LayerPruning"]], output: Path | None, plot: Path | None) -> list[str]:
    """Say what was not sound, and what is lost when the command ends."""
    notes = [f"{results[0].name}: {warning}" for results in prunings for warning in results[0].warnings]
    if any(results[0].holdout_tokens == 0 for results in prunings):
        notes.append("no tokens were held out: the errors are those on the calibration tokens alone")
    from wncore.errors import listed

    bare = [results[0].name for results in prunings if plot and results[0].wasserstein_dense is None]
    if bare:
        notes.append(f"no pictures of {listed(bare)}: outputs need the inputs themselves")
    if output is None:
        notes.append("the pruned weights were not kept; -o FILE.safetensors keeps them")
    return notes


def _print(prunings: list[list["LayerPruning"]], top: int) -> None:
    from wncore_cli.prune_tables import layers_table, settings_line, worst_table

    echo(settings_line(prunings))
    echo()
    echo(layers_table(prunings))
    if top and len(prunings[0]) == 1:
        echo()
        echo(worst_table([results[0] for results in prunings], top))
