"""``wncore prune`` of a dump: a file of weights for each sparsity, and pictures."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wncore_cli import echo, failures, pictures, pruning_options
from wncore_cli.prune_tables import demand_sound, show, warnings_of

if TYPE_CHECKING:
    from wncore.layer_pruning import LayerPruning
    from wncore_cli.prune import Job


def prune(job: "Job") -> int:
    """Prune the layers, write and print; returns the exit code."""
    from wncore.files import spool, sweep_paths
    from wncore.prune_results import prune_document, write_pruned
    from wncore.results import to_json
    from wncore.tick import idle
    from wncore_cli import prune_plots

    reading, output, plot = job.reading, job.output, job.plot
    patterns = job.specs[reading.names[0]].patterns
    files = sweep_paths(output, [str(pattern) for pattern in patterns]) if output else []
    pruning_options.check_files(files, [*reading.dump.files, *job.read], job.force)
    targets = _pictures(job, patterns)
    by_name, missing = {one.name: one for one in reading.open(idle)}, list[str]()

    def draw(results: list["LayerPruning"]) -> None:
        for result, own in zip(results, targets.get(results[0].name, ()), strict=bool(targets)):
            drawn = (by_name[result.name], result, own, job.force)
            pictures.draw(prune_plots.draw, *drawn, failed=missing, silent=job.quiet)

    prunings = []
    for results in _run(job, list(by_name.values())):
        demand_sound(results, job.strict)
        if plot and not output:  # weights that nobody keeps are drawn at once
            draw(results)
        waiting = [spool(one.weight, output.parent) if output and one.weight is not None else None for one in results]
        prunings.append([replace(result, weight=weight) for result, weight in zip(results, waiting, strict=True)])
    failures.demand_some(prunings, reading.failed)
    failures.say_notes(_notes(prunings, output, plot), job.quiet)
    settings = job.settings | failures.documented(reading.failed)
    for i, path in enumerate(files):
        run = [results[i] for results in prunings]
        document = prune_document(reading.source, [[one] for one in run], settings, neurons=False)
        write_pruned(path, [by_name[one.name].layer for one in run], run, document, job.force)
    if job.as_json:
        echo(to_json(prune_document(reading.source, prunings, settings)))
    else:
        show(prunings, job.top)
    for results in prunings if plot and output else ():
        draw(results)
    return max(failures.report(reading.failed), pictures.report(missing))


def _pictures(job: "Job", patterns: tuple) -> dict[str, list[dict[str, Path]]]:
    """Name the pictures of each layer and pattern."""
    if job.plot is None:
        return {}
    from wncore_cli import plots, prune_plots

    suffix = [f"-{str(pattern).replace(':', 'of')}" if len(patterns) > 1 else "" for pattern in patterns]
    names = [name + tail for name in job.reading.names for tail in suffix]
    flat = plots.targets(job.plot, names, job.force, prune_plots.KINDS)
    return {name: flat[i * len(patterns) : (i + 1) * len(patterns)] for i, name in enumerate(job.reading.names)}


def _run(job: "Job", opened: list[Any]) -> Iterator[list["LayerPruning"]]:
    from wncore.layer_pruning import check_memory, prune_layers
    from wncore_cli.progress import begun, progress

    for one in opened:  # what cannot be done is said before any work
        check_memory(one.name, one.shape, job.specs[one.name], one.backend, one.memory)
        job.specs[one.name].cells(*one.shape)
    with progress(len(opened), "layers", job.quiet, opened[0].name) as bar:
        reports = {"wasserstein": job.wasserstein is not False, "ranks": job.ranks is not False}
        fail = failures.recorder(job.reading.failed)
        yield from prune_layers(begun(opened, bar), job.specs, ridge=job.ridge, **reports, fail=fail)


def _notes(prunings: list[list["LayerPruning"]], output: Path | None, plot: Path | None) -> list[str]:
    """Say what was not sound, and what is lost when the command ends."""
    from wncore.errors import listed

    notes = warnings_of(prunings)
    bare = [results[0].name for results in prunings if plot and results[0].wasserstein_dense is None]
    if bare:
        notes.append(f"no pictures of {listed(bare)}: outputs need the inputs themselves")
    if output is None:
        notes.append("the pruned weights were not kept; -o FILE.safetensors keeps them")
    return notes
