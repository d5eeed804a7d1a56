"""Options that commands share, and the values they take."""

import json
import re
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import click

from wncore_cli.notes import hear

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Size(click.ParamType):
    """A number of bytes: 512MiB, 2GiB, 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number and its unit."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)
        if not found or found[2].lower() not in UNITS:
            self.fail(f"{value!r} is no size; write 512MiB or 2GiB", param, ctx)
        size = int(float(found[1]) * UNITS[found[2].lower()])
        if size < 2**20:
            self.fail(f"{value!r} is too little; 1MiB is the least", param, ctx)
        return size


class Number(click.FloatRange):
    """A number in a range; NaN and infinity are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number."""
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is no number to work with", param, ctx)
        return number


class Patterns(click.ParamType):
    """One pattern or several: 0.5, 2:4, 0.5,0.6,0.7."""

    name = "pattern"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        """Read the patterns."""
        from wncore.errors import InputError
        from wncore.pruning.patterns import parse_pattern

        if isinstance(value, tuple):
            return value
        try:
            found = tuple(parse_pattern(part) for part in value.split(","))
        except InputError as error:
            self.fail(str(error), param, ctx)
        if len(set(found)) < len(found):
            self.fail(f"{value} names a pattern twice", param, ctx)
        return found


class Experts(click.ParamType):
    """A number of experts or several: 16, 1,2,4,8,16; or auto."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read the numbers; auto is 0."""
        if isinstance(value, tuple):
            return value
        if value == "auto":
            return (0,)
        parts = value.split(",")
        if not all(part.isascii() and part.isdigit() and 0 < int(part) < 10**6 for part in parts):
            self.fail(f"{value!r} is no number of experts; write 16, or 1,2,4,8,16, or auto", param, ctx)
        if len(set(map(int, parts))) < len(parts):
            self.fail(f"{value} names a number twice", param, ctx)
        return tuple(map(int, parts))


class Setting(click.ParamType):
    """An option of a constructor: kernels=plain, tf32=true, threads=8."""

    name = "setting"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Read the name and the value: JSON if it is that, else a string."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not equals or not key.isidentifier():
            self.fail(f"{value!r} is no option; write NAME=VALUE, kernels=plain say", param, ctx)
        try:
            return key, json.loads(text, parse_constant=int)  # which refuses NaN and infinity
        except ValueError:
            return key, text


class Source(click.Path):
    """A path; an empty one names nothing, and is not taken for the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the path."""
        if value == "":
            self.fail("an empty argument names no file or folder; is a variable unset that should?", param, ctx)
        if value == "-":
            self.fail(
                "standard input and output are streams, and tensors are read and written in any order; "
                "name a file (one that is called - is ./-)",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class Text(click.ParamType):
    """Any text but none."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read the text."""
        if value == "":
            self.fail("an empty argument names nothing; is a variable unset that should?", param, ctx)
        return value


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["wncore.debug"] = value


DEBUG = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_remember_debug, help="Show where an error came from."
)
QUIET = click.option("--quiet", is_flag=True, callback=hear, help="No progress and no notes on stderr.")


def common(command: Callable) -> Callable:
    """Add the options that every command with work to do takes."""
    for option in reversed(
        [
            click.option(
                "--backend",
                default="numba",
                type=Text(),
                show_default=True,
                envvar="WNCORE_BACKEND",
                help="Who does the arithmetic.",
            ),
            click.option("--device", type=Text(), help="Device of the backend, for those that have one: cuda, cuda:1."),
            click.option("--memory", default="1GiB", show_default=True, type=Size(), help="To hold data in."),
            click.option("--threads", type=click.IntRange(1), help="Default: all cores of this process."),
            QUIET,
            DEBUG,
        ]
    ):
        command = option(command)
    return command


def make_backend(name: str, device: str | None, threads: int | None) -> Any:
    """Build the chosen backend with the options that were given."""
    from wncore.backend import get_backend

    given = {"device": device, "threads": threads}
    return get_backend(name, **{key: value for key, value in given.items() if value is not None})


SOURCE = Source(path_type=Path)
FORCE = click.option("--force", is_flag=True, help="Replace files that exist.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document in place of tables.")
_LAYER = click.option(
    "--layer", "layers", multiple=True, metavar="GLOB", type=Text(), help="Only layers that match; may be repeated."
)
_EXCLUDE = click.option(
    "--exclude", multiple=True, metavar="GLOB", type=Text(), help="No layers that match; may be repeated."
)


def LAYERS(command: Callable) -> Callable:
    """Add the options that choose layers."""
    return _LAYER(_EXCLUDE(command))


LENGTH = click.option("--length", type=click.IntRange(1), help="Tokens of a sequence, for dumps that do not say.")
SKIP_TOKENS = click.option(
    "--skip-tokens",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Leave out the first tokens of every sequence.",
)
