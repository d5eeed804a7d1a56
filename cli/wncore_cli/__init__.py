"""The ``wncore`` command: one command a file; parse, call, print; no mathematics.

Commands are imported when they are used, so that ``wncore --help`` is quick.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper
from typing import Any

import click

COMMANDS = {
    "score": "Score the neurons of a dump or a model by their distance to a Gaussian.",
    "capture": "Write what the layers of a model read and give as a dump.",
    "prune": "Prune the layers of a dump or a model, and say what it cost.",
    "expand": "Turn the layers of a dump into sparse experts.",
    "eval": "Judge a language model by the perplexity of a text.",
    "verify": "Check a file of sparse experts, alone or against its source.",
    "inspect": "Say what a dump holds, and whether it fits together.",
    "backends": "List the installed backends.",
    "certify": "Run the conformance suite against a backend.",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is used, and knows its summary without."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``wncore_cli.NAME`` and return its function of that name."""
        if cmd_name not in COMMANDS:
            return None
        return getattr(import_module(f"wncore_cli.{cmd_name}"), cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; nobody is asked anything, so the end of a file is an error and not the user's farewell."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise RuntimeError(f"EOFError: {error}") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("wncore"), prog_name="wncore")
def group() -> None:
    """Wasserstein neurons: score and prune the linear layers of language models.

    Exit codes: 0 done; 1 the input is bad or the work failed; 2 wrong usage; 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr unless --debug is given."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = group.main(arguments, prog_name="wncore", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        echo("wncore: interrupted", err=True)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return 1
    except Exception as error:
        if "--debug" in arguments:
            raise
        if "--quiet" not in arguments:
            _say_notes_of(error)
        echo(f"wncore: error: {describe(error)}", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _say_notes_of(error: Exception) -> None:
    """Print what was passed over before the error; it may be the reason."""
    from wncore_cli.failures import say_notes

    say_notes(getattr(error, "__notes__", []))


def echo(text: str = "", err: bool = False) -> None:
    """Print a line, in the encoding of the stream itself: Click would replace ASCII by another."""
    click.echo(text, file=sys.stderr if err else sys.stdout)


def describe(error: Exception) -> str:
    """Say in one line what went wrong."""
    from wncore.errors import WncoreError

    if isinstance(error, WncoreError):
        text = str(error)
    elif isinstance(error, OSError):
        text = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    elif isinstance(error, MemoryError):
        text = f"out of memory ({error}); give less --memory, or --streaming"
    else:
        text = f"{type(error).__name__}: {error}; this is a bug in wncore, --debug shows where"
    return printable(text)


def printable(text: str) -> str:
    """Replace what could steer a terminal; names of tensors come from files that nobody checked."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def run() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")  # a name that cannot be shown is no reason to fail
    sys.exit(main())
