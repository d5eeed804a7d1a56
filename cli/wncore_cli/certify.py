"""``wncore certify``: the conformance suite against one backend."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from wncore_cli import options


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", type=options.Text())
@click.option("--examples", default=50, show_default=True, type=click.IntRange(1), help="Draws for each random test.")
@click.option("--device", type=options.Text(), help="Device of the backend, for those that have one.")
@click.option(
    "--option",
    "given",
    multiple=True,
    metavar="KEY=VALUE",
    type=options.Setting(),
    help="Another option of its constructor, such as kernels=plain or tf32=true; may be repeated.",
)
@click.option("-o", "--output", type=options.SOURCE, help="Write the certificate (JSON) here.")
@click.option("--force", is_flag=True, help="Replace a certificate that exists.")
@options.DEBUG
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def certify(
    name: str,
    examples: int,
    device: str | None,
    given: tuple[tuple[str, Any], ...],
    output: Path | None,
    force: bool,
    pytest_args: tuple[str, ...],
) -> int:
    """Run the conformance suite against the backend NAME, or a class given as module:Class.

    Each operation is compared with its definition in the core on random inputs, the same on every run; the judge is an
    error budget in units of the dtype's rounding. The exit code is 0 if the backend passes, 1 if not. An option's VALUE
    is JSON, or else a string. Further arguments go to pytest.
    """
    from wncore.backend import get_backend
    from wncore.errors import InputError
    from wncore.files import check_output

    if find_spec("pytest") is None or find_spec("hypothesis") is None:
        raise InputError("certify needs pytest and hypothesis: pip install 'wncore[testing]'")
    if output:
        check_output(output, force)
    here = str(Path.cwd())
    if ":" in name and here not in sys.path:
        sys.path.insert(0, here)  # the class may not be installed yet
    settings = constructor_options(device, given)
    get_backend(name, **settings)
    suite = ["--pyargs", "wncore.testing.conformance", "-p", "wncore.testing.plugin", "-q", "-p", "no:cacheprovider"]
    # Whatever project we are in, its settings are not ours.
    suite += ["-c", os.devnull, "--rootdir", here, "--noconftest"]
    chosen = [f"--wncore-backend={name}", f"--wncore-examples={examples}"]
    chosen += [f"--wncore-options={json.dumps(settings)}"] if settings else []
    chosen += [f"--wncore-certificate={output}", *(["--wncore-force"] if force else [])] if output else []
    with TemporaryDirectory() as scratch:
        environment = os.environ | {"PYTEST_ADDOPTS": "", "HYPOTHESIS_STORAGE_DIRECTORY": scratch}
        if ":" in name:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "pytest", *suite, *chosen, *pytest_args]
        code = subprocess.run(command, env=environment, check=False).returncode
    return {0: 0, 4: 2}.get(code, 1)  # pytest says 4 for wrong usage


def constructor_options(device: str | None, given: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Collect what goes to the backend's constructor; each option can be given once."""
    pairs = [*([("device", device)] if device is not None else []), *given]
    names = [key for key, _ in pairs]
    twice = sorted({key for key in names if names.count(key) > 1})
    if twice:
        raise click.UsageError(f"option {', '.join(twice)} is given twice")
    return dict(pairs)
