"""What a command works on: the layers of a dump, or those of a model that reads a text; told apart in one place."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wncore_cli import failures, options, printable
from wncore_cli.choice import choose_layers, idle_patterns, match_layers
from wncore_cli.model_options import open_model

if TYPE_CHECKING:
    from wncore.backend import Backend
    from wncore.dumps.selection import Need
    from wncore.failures import Failure
    from wncore.layers.activations import Activations
    from wncore.tick import Tick

MODEL_ONLY = {
    "text": "--text",
    "windows": "--windows",
    "dtype": "--dtype",
    "batch": "--batch",
    "skip_norm": "--skip-norm",
}


@dataclass
class Reading:
    """The chosen layers, and how they are opened, one after the other."""

    source: str
    names: list[str]
    numbers: int
    """Outputs of all their tokens, before any is left out."""
    engine: "Backend"
    backend: str
    open: "Callable[[Tick], Iterator[Activations]]"
    dump: Any = None
    model: Any = None
    failed: "list[Failure]" = field(default_factory=list)
    described: dict[str, Any] = field(default_factory=dict)
    """What the document of the result says of it."""


def open_reading(
    sources: Sequence[Path],
    need: "Need",
    *,
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    length: int | None,
    skip_tokens: int,
    memory: int,
    threads: int | None,
    quiet: bool,
    backend: str,
    device: str | None,
    parts: Sequence[str] = ("input", "output"),
    **of_model: Any,
) -> Reading:
    """Open a dump, or a model with a text, choose layers, and say what is passed over.

    `of_model` are the options that only a model knows; of `parts` what is wanted is held.
    """
    from wncore.errors import InputError
    from wncore.sources import find_source

    given = {name: value for name, value in of_model.items() if value is not None}
    if find_source(sources[0]) is None:
        for name in given:
            raise InputError(f"--{name.replace('_', '-')} is for models, and {sources[0]} is none; leave it out")
        engine = options.make_backend(backend, device, threads)
        return _of_dump(sources, need, layers, exclude, length, skip_tokens, memory, quiet, engine, backend)
    if len(sources) > 1:
        raise InputError(f"a model is read alone; give {sources[0]} without {', '.join(map(str, sources[1:]))}")
    return _of_model(
        sources[0], given, layers, exclude, length, skip_tokens, memory, threads, quiet, backend, device, parts
    )


def _of_dump(
    sources: Sequence[Path],
    need: "Need",
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    length: int | None,
    skip_tokens: int,
    memory: int,
    quiet: bool,
    engine: "Backend",
    backend: str,
) -> Reading:
    from wncore.dumps import open_dump
    from wncore.layers.activations import open_layers

    dump = open_dump(*sources, length=length)
    selection = choose_layers(dump, layers, exclude, need, skip_tokens, quiet)
    opened = open_layers(selection.ready, engine, skip_tokens=skip_tokens, memory=memory)
    return Reading(
        source=printable(dump.source),
        names=[one.name for one in opened],
        numbers=sum(one.tokens.count * one.layer.neurons for one in opened),
        engine=engine,
        backend=backend,
        open=lambda tick: (one.telling(tick) for one in opened),
        dump=dump,
        failed=selection.failed,
    )


def _of_model(
    path: Path,
    given: dict[str, Any],
    layers: tuple[str, ...],
    exclude: tuple[str, ...],
    length: int | None,
    skip_tokens: int,
    memory: int,
    threads: int | None,
    quiet: bool,
    backend: str,
    device: str | None,
    parts: Sequence[str],
) -> Reading:
    from wncore.errors import listed

    text, skip_norm = given.pop("text", None), given.pop("skip_norm", None)
    given |= {"device": device, "length": length, "threads": threads}
    model = open_model(path, text, {name: value for name, value in given.items() if value is not None})
    backend, engine = _backend_beside(model, backend, threads)
    chosen = match_layers(list(model.layers), *named_layers(model.groups, layers, exclude))
    notes = idle_patterns([*model.layers, *model.groups], layers, exclude)
    starved: list[str] = []
    notes += model.notes(chosen)
    failures.say_notes(notes, quiet)
    shapes = [model.layers[name].shape for name in chosen]

    def opened(tick: "Tick") -> "Iterator[Activations]":
        yield from model.activations(
            chosen,
            engine,
            parts=parts,
            skip_tokens=skip_tokens,
            skip_norm=skip_norm,
            memory=memory,
            tick=tick,
            starved=lambda name, error: starved.append(f"{name} ({error})"),
        )
        if starved:
            failures.say_notes(
                [f"{len(starved)} layers have fewer than 2 tokens that count, and are passed over: {listed(starved)}"],
                quiet,
            )

    return Reading(
        source=printable(str(path)),
        names=chosen,
        numbers=model.tokens * sum(m for m, _ in shapes),
        engine=engine,
        backend=backend,
        open=opened,
        model=model,
        described=model.described(chosen) | {"skip_norm": skip_norm},
    )


def named_layers(
    groups: dict[str, list[str]], layers: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put the names of layers in the place of what stands for several, in patterns: mlp, attention, all."""
    chosen, unwanted = (
        tuple(name for pattern in patterns for name in groups.get(pattern, [pattern])) for patterns in (layers, exclude)
    )
    return chosen, unwanted


def _backend_beside(model: Any, backend: str, threads: int | None) -> "tuple[str, Backend]":
    """Make the backend: where nobody chose, a model on a GPU has its statistics computed there."""
    chosen = click.get_current_context().get_parameter_source("backend")
    if chosen is click.core.ParameterSource.DEFAULT and model.device != "cpu":
        backend = "torch"
    return backend, options.make_backend(backend, model.device if backend == "torch" else None, threads)
