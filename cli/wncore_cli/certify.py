"""``wncore certify``: the conformance suite against one backend."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from wncore_cli import options


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.option("--examples", default=50, show_default=True, type=click.IntRange(1), help="Draws for each operation.")
@click.option("--device", help="Device of the backend, for those that have one.")
@click.option("-o", "--output", type=options.SOURCE, help="Write the certificate (JSON) here.")
@click.option("--force", is_flag=True, help="Replace a certificate that exists.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show where an error came from.")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def certify(
    name: str, examples: int, device: str | None, output: Path | None, force: bool, pytest_args: tuple[str, ...]
) -> int:
    """Run the conformance suite against the backend NAME, or a class given as module:Class.

    Each operation is compared with its definition in the core on random inputs; the judge is an error budget in units
    of the dtype's rounding. The exit code is 0 if the backend passes, 1 if not. Further arguments go to pytest.
    """
    from wncore.errors import InputError
    from wncore.files import check_output

    if find_spec("pytest") is None or find_spec("hypothesis") is None:
        raise InputError("certify needs pytest and hypothesis: pip install 'wncore[testing]'")
    if output:
        check_output(output, force)
    options.make_backend(name, device, None)
    suite = ["-m", "pytest", "--pyargs", "wncore.testing.conformance", "-p", "wncore.testing.plugin"]
    plain = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    chosen = [f"--wncore-backend={name}", f"--wncore-examples={examples}"]
    chosen += [f"--wncore-options={json.dumps({'device': device})}"] if device else []
    chosen += [f"--wncore-certificate={output}"] if output else []
    code = subprocess.run([sys.executable, *suite, *plain, *chosen, *pytest_args], check=False).returncode
    return 130 if code == 2 else min(code, 1)
