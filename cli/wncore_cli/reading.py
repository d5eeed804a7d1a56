"""What a command works on: the layers of a dump, or those of a model that reads a text; told apart in one place."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
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


@dataclass(frozen=True)
class Asked:
    """The options that say what is read, and by whom; those that only a model knows are in `of_model`."""

    layers: tuple[str, ...]
    exclude: tuple[str, ...]
    length: int | None
    skip_tokens: int
    memory: int
    threads: int | None
    quiet: bool
    backend: str
    device: str | None
    parts: tuple[str, ...]
    """Of inputs and outputs, what a verb reads."""
    of_model: dict[str, Any]
    """What was given of the options that only models know: --text, --windows, --dtype and others."""
    holdout: float = 0.1
    seed: int | None = None
    """Of a model's windows, if they lie at random places."""
    default_seed: int | None = None
    """Where none is given; None: windows are disjoint then."""
    default: tuple[str, ...] = ()
    """The layers of a model that are chosen where nobody chose; none: all."""


@dataclass
class Reading:
    """The chosen layers, and how they are opened, one after the other."""

    source: str
    names: list[str]
    neurons: dict[str, int]
    """How many each has."""
    numbers: int
    """Outputs of all their tokens, before any is left out."""
    engine: "Backend"
    backend: str
    open: "Callable[..., Iterator[Activations]]"
    """Takes who hears that work goes on; of a model also `through`, what yields the layers in its place."""
    dump: Any = None
    model: Any = None
    failed: "list[Failure]" = field(default_factory=list)
    described: dict[str, Any] = field(default_factory=dict)
    """What the document of the result says of it."""


def open_reading(sources: Sequence[Path], need: "Need", **given: Any) -> Reading:
    """Open a dump, or a model with a text, choose layers, and say what is passed over; `given` is what `Asked` has."""
    from wncore.errors import InputError
    from wncore.sources import find_source

    names = [one.name for one in fields(Asked)]
    of_model = {name: value for name, value in given.items() if name not in names and value not in (None, False, ())}
    asked = Asked(**{name: value for name, value in given.items() if name in names}, of_model=of_model)
    if find_source(sources[0]) is None:
        for name in [*of_model, *(["seed"] if asked.seed is not None else [])]:
            _refuse_for_dumps(f"--{name.replace('_', '-')}", sources[0])
        return _of_dump(sources, need, asked)
    if len(sources) > 1:
        raise InputError(f"a model is read alone; give {sources[0]} without {', '.join(map(str, sources[1:]))}")
    return _of_model(sources[0], asked)


def _refuse_for_dumps(option: str, source: Path) -> None:
    """Raise for an option that only models know."""
    from wncore.errors import InputError
    from wncore.sources import get_source, model_around

    if not os.path.exists(source):  # noqa: PTH110  (Path.exists raises for odd names)
        get_source(source)
    folder = model_around(source)
    remedy = "leave it out" if folder is None else f"give the folder of the model, {folder}, or leave it out"
    raise InputError(f"{option} is for models, and {source} is none; {remedy}")


def _of_dump(sources: Sequence[Path], need: "Need", asked: Asked) -> Reading:
    from wncore.dumps import open_dump
    from wncore.layers.activations import open_layers

    dump = open_dump(*sources, length=asked.length)
    selection = choose_layers(dump, asked.layers, asked.exclude, need, asked.skip_tokens, asked.quiet)
    engine = options.make_backend(asked.backend, asked.device, asked.threads)
    reading = {"skip_tokens": asked.skip_tokens, "holdout": asked.holdout, "memory": asked.memory}
    opened = open_layers(selection.ready, engine, **reading)
    return Reading(
        source=printable(dump.source),
        names=[one.name for one in opened],
        neurons={one.name: one.layer.neurons for one in opened},
        numbers=sum(one.tokens.count * one.layer.neurons for one in opened),
        engine=engine,
        backend=asked.backend,
        open=lambda tick: (one.telling(tick) for one in opened),
        dump=dump,
        failed=selection.failed,
    )


def _of_model(path: Path, asked: Asked) -> Reading:
    from wncore.errors import TooFewTokensError, listed

    given = {name: value for name, value in asked.of_model.items() if name in ("windows", "dtype", "batch")}
    of_both = {name: getattr(asked, name) for name in ("device", "length", "threads")}
    seed = of_both["seed"] = asked.default_seed if asked.seed is None else asked.seed
    given |= {name: value for name, value in of_both.items() if value is not None}
    skip_norm = asked.of_model.get("skip_norm")
    model = open_model(path, asked.of_model.get("text"), given)
    backend, engine = _backend_beside(model, asked)
    model.begin()  # the backend's libraries are loaded, and count as being there
    wanted = named_layers(model.groups, asked.layers or asked.default, asked.exclude)
    chosen = match_layers(list(model.layers), *wanted)
    notes = idle_patterns([*model.layers, *model.groups], layer=asked.layers, exclude=asked.exclude)
    failures.say_notes(notes + model.notes(), asked.quiet)

    def opened(tick: "Tick", through: Callable | None = None) -> "Iterator[Activations]":
        starved: list[str] = []
        yield from (through or partial(model.activations, chosen, parts=asked.parts))(
            engine,
            skip_tokens=asked.skip_tokens,
            skip_norm=skip_norm,
            holdout=asked.holdout,
            memory=asked.memory,
            tick=tick,
            starved=lambda name, error: starved.append(f"{name} ({error})"),
        )
        if len(starved) == len(chosen):
            raise TooFewTokensError(f"no layer has 2 tokens that count: {listed(starved)}; leave fewer tokens out")
        note = f"{len(starved)} layers have fewer than 2 tokens that count, and are passed over: {listed(starved)}"
        failures.say_notes([note] if starved else [], asked.quiet)

    return Reading(
        source=printable(str(path)),
        names=chosen,
        neurons={name: model.layers[name].shape[0] for name in chosen},
        numbers=model.tokens * sum(model.layers[name].shape[0] for name in chosen),
        engine=engine,
        backend=backend,
        open=opened,
        model=model,
        described=model.described(chosen) | {"skip_norm": skip_norm} | ({} if seed is None else {"seed": seed}),
    )


def named_layers(
    groups: dict[str, list[str]], layers: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put the names of layers in the place of what stands for several, in patterns: mlp, attention, all."""
    chosen, unwanted = (
        tuple(name for pattern in patterns for name in groups.get(pattern, [pattern])) for patterns in (layers, exclude)
    )
    return chosen, unwanted


def _backend_beside(model: Any, asked: Asked) -> "tuple[str, Backend]":
    """Make the backend: where nobody chose, a model on a GPU has its statistics computed there."""
    chosen, backend = click.get_current_context().get_parameter_source("backend"), asked.backend
    if chosen is click.core.ParameterSource.DEFAULT and model.device != "cpu":
        backend = "torch"
    return backend, options.make_backend(backend, model.device if backend == "torch" else None, asked.threads)
