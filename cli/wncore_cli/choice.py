"""The layers that --layer and --exclude choose, and notes on those that are passed over."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from wncore_cli.failures import say_notes

if TYPE_CHECKING:
    from wncore.dumps.selection import Need, Selection


def choose_layers(
    dump: Any, patterns: tuple[str, ...], exclude: tuple[str, ...], need: "Need", skip_tokens: int, quiet: bool
) -> "Selection":
    """Choose layers to work on; what is passed over is said at once, as it may be the reason why nothing is left."""
    from wncore.dumps.selection import choose

    names = list(dump.layers)
    say_notes(dump.notes, quiet)
    chosen = match_layers(names, patterns, exclude)
    say_notes(idle_patterns(names, patterns, exclude), quiet)
    selection = choose(dump, chosen, need, skip_tokens)
    say_notes(selection.notes, quiet)
    return selection


def match_layers(names: list[str], patterns: tuple[str, ...], exclude: tuple[str, ...] = ()) -> list[str]:
    """Return the names that any pattern matches, all without a pattern; none that an excluding one matches."""
    from wncore.errors import InputError, listed

    wanted = {name for pattern in patterns for name in matching(names, pattern)}
    found = [name for name in names if not patterns or name in wanted]
    if not found:
        raise InputError(f"--layer {' '.join(patterns)} matches none of the {len(names)} layers: {listed(names)}")
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


def idle_patterns(names: list[str], patterns: tuple[str, ...], exclude: tuple[str, ...]) -> list[str]:
    """Say which patterns match no layer: whoever gave them expects one."""
    return [
        f"{option} {pattern} matches none of the {len(names)} layers"
        for option, given in (("--layer", patterns), ("--exclude", exclude))
        for pattern in given
        if not matching(names, pattern)
    ]
