"""``wncore verify``: whether a file of experts is what it says."""

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from wncore_cli import echo, options, printable
from wncore_cli.progress import progress
from wncore_cli.tables import table

if TYPE_CHECKING:
    from wncore.experts.files import ExpertFile
    from wncore.experts.recomputation import Verification
    from wncore.experts.verification import Check

SCHEMA = "wncore.verify/1"
RESULTS = {True: "ok", False: "FAILED", None: "-"}


@click.command(short_help="Check a file of experts, alone or against its source.")
@click.argument("paths", metavar="FILE", nargs=-1, required=True, type=options.SOURCE)
@click.option(
    "--against",
    multiple=True,
    metavar="SOURCE...",
    type=options.SOURCE,
    help="The dump that the experts were made from: route its tokens again, recompute the errors.",
)
@options.JSON
@click.option(
    "--backend",
    type=options.Text(),
    envvar="WNCORE_BACKEND",
    help="Who does the arithmetic; by default, as all below, as recorded.",
)
@click.option("--device", type=options.Text(), help="Device of the backend, for those that have one: cuda, cuda:1.")
@click.option("--memory", type=options.Size(), help="To hold data in.")
@click.option("--threads", type=click.IntRange(1), help="Of the backend.")
@options.QUIET
@options.DEBUG
def verify(
    paths: tuple[Path, ...],
    against: tuple[Path, ...],
    as_json: bool,
    backend: str | None,
    device: str | None,
    memory: int | None,
    threads: int | None,
    quiet: bool,
) -> None:
    """Check the experts in FILE: hashes, zeros, sizes and counts; and, against their source, tokens and errors.

    Where versions, machine, backend, device and threads are those recorded, numbers must be equal to the bit; elsewhere
    they may differ by rounding, and by tokens that lie between two experts. The exit code is 1 if a check
    fails.

    \b
    wncore verify experts.safetensors
    wncore verify experts.safetensors --against acts.safetensors
    """  # noqa: D301
    from wncore.dumps import open_dump
    from wncore.errors import InputError
    from wncore.experts.files import load_experts
    from wncore.experts.recomputation import verify_against
    from wncore.experts.verification import verify_file

    path, *more = paths
    if more and not against:
        raise click.UsageError(f"{more[0]} is one file too many; --against goes before the source")
    file, sources = load_experts(path), [*against, *more]
    if not sources and (device or memory or threads or _given("backend")):
        raise click.UsageError("nothing is computed without --against; name the source, or leave these options out")
    dump = open_dump(*sources, length=_length(file, sources)) if sources else None
    engine = _engine(file, backend, device, threads) if sources else None

    with progress(len(file.layers) * (2 if sources else 1), "layers", quiet) as bar:
        checks, found = verify_file(file, tick=bar.update), None
        if dump is not None and engine is not None:
            found = verify_against(file, dump, engine, memory=memory, tick=bar.update)
            checks += found.checks
    if not found and not quiet:
        echo(f"note: {printable(_hint(file))}", err=True)
    if as_json:
        echo(json.dumps(_document(file, found, checks), allow_nan=False))
    else:
        _print(file, found, checks)
    failed = [check for check in checks if check.passed is False]
    if failed:
        first = f"{failed[0].layer} {failed[0].name}: {failed[0].finding}".strip()
        raise InputError(
            f"{path} fails {len(failed)} of {len(checks)} checks: {first}; "
            f"{'check the source' if found and failed[0] in found.checks else 'copy the file'} or expand again"
        )


def _given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _length(file: "ExpertFile", sources: list[Path]) -> int | None:
    """Return the recorded length of a sequence, unless the dump names one itself."""
    from wncore.dumps import open_dump

    length = file.document.get("length")
    return length if length and "wncore.sequence_length" not in open_dump(*sources).metadata else None


def _engine(file: "ExpertFile", backend: str | None, device: str | None, threads: int | None) -> Any:
    """Build the backend that was asked for, or the one on record; a file that nobody checked names no other code."""
    from wncore.backend import available
    from wncore.errors import BackendError, InputError

    recorded = file.document.get("backend", "numba")
    if backend is None and recorded not in available():
        raise InputError(
            f"{file.path} was computed by the backend {recorded[:40]!r}, which is not installed; choose one: --backend "
            f"{' or '.join(sorted(available()))}"
        )
    if backend in (None, recorded):
        device = device or file.document.get("device")
        threads = threads or min(file.document.get("threads") or 0, os.cpu_count() or 1) or None
    try:
        return options.make_backend(backend or recorded, device, threads)
    except BackendError as error:
        if backend is not None:
            raise
        raise InputError(f"{error}; {file.path} was computed there, but --backend numba can check it, too") from error


def _hint(file: "ExpertFile") -> str:
    """Name the command that checks the numbers; the source on record is not read unasked."""
    parts = str(file.document.get("source", "")).split(", ")
    there = all(part and os.path.exists(part) for part in parts)  # noqa: PTH110  (Path.exists raises for odd names)
    source = " ".join(map(shlex.quote, parts)) if there else "SOURCE"
    return (
        f"only the file itself was checked; `wncore verify {shlex.quote(str(file.path))} --against {source}` "
        f"recomputes its numbers"
    )


def _document(file: "ExpertFile", found: "Verification | None", checks: list["Check"]) -> dict[str, Any]:
    document = {"schema": SCHEMA, "file": printable(str(file.path)), "against": None, "rule": None, "differences": None}
    if found:
        rule = "equal" if found.exact else "budget"
        document |= {"against": printable(found.source), "rule": rule, "differences": list(found.differences)}
    document["passed"] = all(check.passed is not False for check in checks)
    return document | {"checks": [check.document for check in checks]}


def _print(file: "ExpertFile", found: "Verification | None", checks: list["Check"]) -> None:
    echo(printable(f"{file.path}: {_rule(found)}"))
    echo()
    columns = [
        ["layer", *(check.layer or "(file)" for check in checks)],
        _left("check", *(check.name for check in checks)),
        _left("result", *(RESULTS[check.passed] for check in checks)),
        _left("found", *(check.finding[:120] for check in checks)),
    ]
    head, *rows = zip(*columns, strict=True)
    echo(table(head, rows))


def _left(*words: str) -> list[str]:
    """Pad words to one width, so that a table aligns them left."""
    plain = [printable(word) for word in words]
    width = max(map(len, plain))
    return [word.ljust(width) for word in plain]


def _rule(found: "Verification | None") -> str:
    """Say by which rule numbers were compared, and why."""
    if found is None:
        return "checked alone, no number was recomputed"
    if found.exact:
        return "under the conditions recorded, numbers must be equal to the bit"
    return f"numbers must agree within the error budget, since {', '.join(found.differences)}"
