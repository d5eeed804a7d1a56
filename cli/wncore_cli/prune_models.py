"""``wncore prune`` of a model: a folder that is its copy but for the weights pruned, judged by its perplexity."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wncore_cli import echo, failures, printable
from wncore_cli.plans import extent, show_plan
from wncore_cli.prune_tables import demand_sound, show, warnings_of

if TYPE_CHECKING:
    from wncore.effort import Step
    from wncore.layer_pruning import LayerPruning
    from wncore_cli.prune import Job


def prune(job: "Job", given: dict[str, Any]) -> int:
    """Prune the layers, write the folder and print; `given` are the options of models. Returns the exit code."""
    from wncore.prune_results import prune_document
    from wncore.results import to_json
    from wncore_cli.resource_tables import resources_document, resources_table

    _refuse(job)
    reading, model = job.reading, job.reading.model
    order, texts = given["calibration_order"] or "published", given["evaluate"]
    if job.strict:
        _demand_covered(job)
    work = model.replacing(reading.names, order=order, output=job.output, texts=texts)
    work.foretell(_state(job), job.memory)
    settings = job.settings | reading.described | {"calibration_order": order}
    if given["dry_run"]:
        return show_plan("prune", reading, settings, _effort(job, work), job.as_json, work.disk)
    prunings: list[list[LayerPruning]] = []
    with work:
        for results in _run(job, work):
            prunings.append(results)
        failures.demand_some(prunings, reading.failed)
    answers = zip(texts, work.answers(), strict=True)  # the folder is there, whatever the texts say of it
    judged = [{"text": printable(str(text)), **one.document()} for text, one in answers]
    failures.say_notes(_notes(job, prunings, texts), job.quiet)
    settings |= failures.documented(reading.failed) | {"evaluations": judged}
    settings |= {"output": printable(str(job.output))} if job.output else {}
    settings |= {"changed": [_change(one) for one in work.changes]}
    if job.as_json:
        echo(to_json(prune_document(reading.source, prunings, settings) | resources_document(model, model.measured())))
    else:
        show(prunings, job.top)
        echo(f"\n{extent(reading.names, settings)}; {_sum(prunings)}")
        for one in judged:
            echo(_judgement(one))
        echo(f"\n{resources_table(model, model.measured())}")
    return failures.report(reading.failed)


def _effort(job: "Job", work: Any) -> "list[Step]":
    """Foretell the time: of the forwards, and of pruning."""
    from wncore.pruning_effort import pruning_effort

    shapes = [job.reading.model.layers[name].shape for name in job.reading.names]
    return [*work.effort(), pruning_effort(job.reading.engine, shapes, job.specs[job.reading.names[0]])]


def _refuse(job: "Job") -> None:
    """Raise for what has no effect on models."""
    from wncore.errors import InputError

    if job.plot:
        raise InputError("--plot is for dumps; capture the model's activations first: wncore capture MODEL --text")
    if job.force:
        raise InputError("--force has no effect on models: a folder that exists is never replaced; leave it out")
    if len(next(iter(job.specs.values())).patterns) > 1:
        raise InputError("a model is pruned by one --sparsity at a time, as later layers feel it; run once for each")


def _demand_covered(job: "Job") -> None:
    from wncore.errors import InputError, listed

    left = job.reading.described["uncovered"]
    if left:
        raise InputError(
            f"{len(left)} parameters of the model's blocks are of no linear layer that runs: {listed(left)}; without "
            f"--strict that is a note"
        )


def _state(job: "Job") -> int:
    """Return the most that pruning a layer takes beside its inputs."""
    from wncore.layer_pruning import memory_of

    engine, layers = job.reading.engine, job.reading.model.layers
    beside: Callable[..., int] = getattr(engine, "working_memory", lambda *_: 0)
    needs = [(*layers[name].shape, job.specs[name]) for name in job.reading.names]
    return max(memory_of(m, d, spec, engine) + beside(m, d, spec) for m, d, spec in needs)


def _run(job: "Job", work: Any) -> Iterator[list["LayerPruning"]]:
    """Prune layer after layer, and put the weights into the model before the next is read."""
    from dataclasses import replace

    from wncore.errors import InputError, listed
    from wncore.layer_pruning import check_memory, prune_layers
    from wncore_cli.progress import begun, progress

    names, model = job.reading.names, job.reading.model
    for name in names:  # what cannot be done is said before any work
        shape = model.layers[name].shape
        job.specs[name].cells(*shape)
        if model.device == "cpu":  # a GPU's free memory counts, which is known when it is needed
            check_memory(name, shape, job.specs[name], job.reading.engine, job.memory)

    def refuse(name: str, error: Exception) -> None:
        raise InputError(f"{name}: {error}; without --strict the other layers would be pruned") from error

    left = set(names)
    fail = refuse if job.strict else failures.recorder(job.reading.failed)
    with progress(len(names), "layers", job.quiet, names[0]) as bar:
        opened = begun(job.reading.open(bar.update, through=work.activations), bar)
        reports = {"wasserstein": bool(job.wasserstein), "ranks": bool(job.ranks)}
        for results in prune_layers(opened, job.specs, ridge=job.ridge, **reports, fail=fail):
            demand_sound(results, job.strict)
            work.replace(results[0].name, results[0].weight)
            left.discard(results[0].name)
            yield [replace(results[0], weight=None)]
    if job.strict and left:
        raise InputError(f"{listed(sorted(left))} read fewer than 2 tokens; without --strict that is a note")


def _notes(job: "Job", prunings: list[list["LayerPruning"]], texts: tuple[Path, ...]) -> list[str]:
    notes = warnings_of(prunings)
    if not texts:
        notes.append(
            "errors are judged on the kind of text that calibrated; --evaluate FILE judges the model by the perplexity "
            "of another"
        )
    if job.output is None:
        notes.append("the pruned model was not kept; -o FOLDER keeps it")
    return notes


def _sum(prunings: list[list["LayerPruning"]]) -> str:
    zeros = sum(results[0].zeros for results in prunings)
    return f"{zeros / sum(results[0].shape[0] * results[0].shape[1] for results in prunings):.4%} zeros"


def _change(one: Any) -> dict[str, Any]:
    return {"tensor": one.tensor, "layers": list(one.layers), "zeros": one.zeros, "sha256": one.digest}


def _judgement(one: dict[str, Any]) -> str:
    perplexity = "inf" if one["perplexity"] is None else f"{one['perplexity']:.4f}"
    return f"perplexity of {one['text']}: {perplexity} ({one['windows']} windows of {one['length']} tokens)"
