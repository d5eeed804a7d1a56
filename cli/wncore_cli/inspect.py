"""``wncore inspect``: what a dump holds, and whether it fits together."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wncore_cli import echo, failures, options, printable
from wncore_cli.choice import capturing, idle_patterns, match_layers, model_behind
from wncore_cli.tables import table

if TYPE_CHECKING:
    from wncore.inspection import Inspection


@click.command(short_help="Say what a dump holds.")
@click.argument("sources", nargs=-1, required=True, type=options.SOURCE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@options.LAYERS
@options.LENGTH
@options.common
def inspect(
    sources: tuple[Path, ...],
    as_json: bool,
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    length: int | None,
    backend: str,
    device: str | None,
    memory: int,
    threads: int | None,
    quiet: bool,
) -> int:
    """Say what a dump, or a file of sparse experts, holds, and check it.

    Every layer is listed; the exit code is 1 if one of them cannot be used, and it is said why.

    Where a layer has outputs as well as inputs and weights, the outputs are computed again and compared. Outputs that
    look as if they had passed an activation function are pointed out.
    """
    from tqdm import tqdm

    from wncore.dumps.dump import survey_dump
    from wncore.experts.files import holds_experts
    from wncore.failures import Failure
    from wncore.inspection import survey_layer

    if len(sources) == 1 and holds_experts(sources[0]):
        _inspect_experts(sources[0], layers, exclude, as_json)
        return 0
    dump = survey_dump(*sources, length=length)
    failed: list[Failure] = []
    folder, notes = model_behind(dump), list(dump.notes)
    if folder:
        notes.append(f"these are the weights of a model alone; {capturing(folder)}")
    with failures.noting(dump.notes):
        names = match_layers(list(dump.layers), layers, exclude)
        engine = options.make_backend(backend, device, threads)
        bar = tqdm(names, unit=" layers", delay=2, disable=True if quiet else None, leave=False)
        fail = failures.recorder(failed)
        found = [survey_layer(dump.layers[name], engine, memory, fail) for name in bar]
    if as_json:
        described = [_described(one) | {"warnings": one.warnings, **_parts(dump.layers[one.name])} for one in found]
        document = {"schema": "wncore.inspect/1", "source": dump.source, "files": [str(path) for path in dump.files]}
        document |= {"metadata": dump.metadata, "notes": notes, "layers": described}
        document |= failures.documented(failed)
        echo(json.dumps(_without_infinity(document), allow_nan=False))
        return failures.report(failed)
    echo(printable(f"{dump.source}: {len(dump.files)} files, {len(dump.layers)} layers"))
    for key, value in sorted(dump.metadata.items()):
        echo(printable(f"  {key} = {value if len(value) < 100 else value[:97] + '...'}"))
    head = ["layer", "tokens", "padding", "input", "weight", "bias", "output", "gram"]
    rows = []
    for one in found:
        parts = _parts(dump.layers[one.name])["tensors"]
        rows.append([one.name, f"{one.tokens}", f"{one.padding}", *(parts.get(part, "-") for part in head[3:])])
    echo(table(head, rows))
    for one in found:
        if one.agreement:
            echo(f"{printable(one.name)}: {one.agreement}")
        for warning in one.warnings:
            echo(f"warning: {failures.said_of(one.name, warning)}")
    for failure in failed:
        echo(f"error: {failures.told(failure)}")
    for note in [*notes, *idle_patterns(list(dump.layers), layer=layers, exclude=exclude)]:
        echo(f"note: {printable(note)}")
    return failures.report(failed)


def _described(one: "Inspection") -> dict[str, Any]:
    """Return the figures; that a layer is idle is one of its warnings."""
    return {key: value for key, value in asdict(one).items() if key != "idle"}


def _inspect_experts(path: Path, layers: tuple[str, ...], exclude: tuple[str, ...], as_json: bool) -> None:
    """Print what a file of experts holds."""
    from wncore.experts.files import load_experts
    from wncore.inspection import inspect_experts

    file = load_experts(path)
    names = match_layers(list(file.layers), layers, exclude)
    found = [one for one in inspect_experts(file) if one.name in names]
    packed = file.layers.packed
    if as_json:
        document = {"schema": "wncore.inspect/1", "source": printable(str(path)), "packed": packed}
        document |= {"failed": file.document["failed"]} if "failed" in file.document else {}
        echo(json.dumps(document | {"experts": [asdict(one) for one in found]}, allow_nan=False))
        return
    echo(printable(f"{path}: sparse experts of {len(file.layers)} layers, {'packed' if packed else 'dense'}"))
    head = ["layer", "experts", "shape", "dtype", "router of", "tokens", "zeros", "MiB dense", "MiB packed"]
    rows = []
    for one in found:
        sizes = [f"{size / 2**20:.2f}" for size in (one.dense_bytes, one.packed_bytes)]
        row = [one.name, f"{one.experts}", f"{one.shape[0]}x{one.shape[1]}", one.dtype, one.router, f"{one.tokens}"]
        rows.append([*row, f"{one.zeros:.2%}", *sizes])
    echo(table(head, rows))
    for failure in file.document.get("failed", ()):
        echo(printable(f"note: {failure['name']} is not among them: {failure['error']}"))


def _parts(layer: Any) -> dict[str, Any]:
    parts = ("input", "weight", "bias", "output", "gram")
    held = {part: getattr(layer, part) for part in parts if getattr(layer, part) is not None}
    lengths = set(layer.lengths) or {layer.sequence_length}
    return {
        "sequence_length": lengths.pop() if len(lengths) == 1 else None,  # pieces may differ
        "tensors": {part: f"{tensor.dtype} {tensor.rows} x {tensor.columns}" for part, tensor in held.items()},
    }


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinity(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value
