"""The layers that --layer and --exclude choose, and notes on those that are passed over."""

import shlex
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wncore_cli.failures import say_notes

if TYPE_CHECKING:
    from wncore.dumps.selection import Need, Selection

GROUPS = {"mlp": "*.mlp.*", "attention": "*attn*", "all": "*"}
"""What stands for several layers of a model, and how the layers of most are called."""


def choose_layers(
    dump: Any, patterns: tuple[str, ...], exclude: tuple[str, ...], need: "Need", skip_tokens: int, quiet: bool
) -> "Selection":
    """Choose layers to work on; what is passed over is said at once, as it may be the reason why nothing is left."""
    from wncore.dumps.selection import choose

    demand_activations(dump, need)
    names = list(dump.layers)
    say_notes(dump.notes, quiet)
    chosen = match_layers(names, patterns, exclude)
    say_notes(idle_patterns(names, layer=patterns, exclude=exclude), quiet)
    selection = choose(dump, chosen, need, skip_tokens)
    say_notes(selection.notes, quiet)
    return selection


def demand_activations(dump: Any, need: "Need") -> None:
    """Raise if a model was named in place of a dump."""
    from wncore.errors import InputError

    folder = model_behind(dump)
    if folder and (need != "scorable" or not any(layer.output for layer in dump.layers.values())):
        raise InputError(f"{dump.source} holds the weights of a model alone; {capturing(folder)}")


def model_behind(dump: Any) -> Path | None:
    """Return the folder of the model whose weights a dump is; None if there are inputs, or it is of no model."""
    from wncore.sources import model_around

    if any(layer.input or layer.gram for layer in dump.layers.values()):
        return None
    return next((folder for path in dump.files if (folder := model_around(path))), None)


def capturing(folder: Path) -> str:
    """Say how to come by the activations of a model."""
    return f"what its layers read and give is written by: wncore capture {shlex.quote(str(folder))} --text FILE -o DUMP"


def match_layers(
    names: list[str], patterns: tuple[str, ...], exclude: tuple[str, ...] = (), option: str = "--layer"
) -> list[str]:
    """Return the names that any pattern matches, all without a pattern; none that an excluding one matches."""
    from wncore.errors import InputError, listed

    wanted = {name for pattern in patterns for name in matching(names, pattern)}
    found = [name for name in names if not patterns or name in wanted]
    if not found:
        raise InputError(
            f"{option} {listed(patterns, most=3)} matches none of the {len(names)} layers: {listed(names)}"
            f"{_for_models(option, patterns)}"
        )
    unwanted = {name for pattern in exclude for name in matching(names, pattern)}
    chosen = [name for name in found if name not in unwanted]
    if not chosen:
        raise InputError(
            f"--exclude {' '.join(exclude)} leaves none of {len(found)} layers: {listed(found)}; exclude fewer"
        )
    return chosen


def matching(names: list[str], pattern: str) -> list[str]:
    """Return the names that a pattern matches: that name, if it is one.

    Brackets are brackets, as in model.layers[0].mlp, if a name has them there; else they are a set of characters.

    >>> matching(["h[0].up", "h[1].up", "h0.up"], "h[0].*"), matching(["h0.up", "h1.up", "h9.up"], "h[0-3].*")
    (['h[0].up'], ['h0.up', 'h1.up'])
    """
    if pattern in names:
        return [pattern]
    plain = [name for name in names if fnmatchcase(name, pattern.replace("[", "[[]"))]
    return plain or [name for name in names if fnmatchcase(name, pattern)]


def idle_patterns(names: list[str], **patterns: tuple[str, ...]) -> list[str]:
    """Say which patterns match no layer, by the options they were given to: whoever gave them expects one."""
    return [
        f"--{option} {pattern} matches none of the {len(names)} layers{_for_models(f'--{option}', (pattern,))}"
        for option, given in patterns.items()
        for pattern in given
        if not matching(names, pattern)
    ]


def _for_models(option: str, patterns: tuple[str, ...]) -> str:
    """Say what to type for what stands for several layers of a model, and is no layer of a dump."""
    for name, glob in GROUPS.items():
        if name in patterns:
            return f"; {name} stands for layers of a model, in a dump give a glob: {option} '{glob}'"
    return ""
