"""A test of the tests: the conformance suite passes right backends and rejects every saboteur.

One process runs the suite over and over: a fresh one for each saboteur would mostly import. An operation that a
saboteur has from the NumPy backend is not tried again, since that backend passes the whole suite.
"""

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import saboteurs

from wncore import tolerance
from wncore.reference import NumpyBackend
from wncore.testing.contracts import CONTRACTS

HERE = Path(__file__).parent
RIGHT = {"numpy": [], "numba": [], "saboteurs.right:RightInFloat32": [], "saboteurs.right:RightInHalf": ["-n", "2"]}

WORKER = """
import contextlib, io, json, sys
import pytest
from hypothesis import Phase, settings

class Watch:
    failed = None

    def pytest_configure(self, config):  # after the plugin's: here a failure need not be shrunk
        settings.register_profile("quick", settings.get_profile("wncore"), phases=[Phase.generate])
        settings.load_profile("quick")

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed = report.nodeid.rpartition("::")[2]

suite = ["--pyargs", "wncore.testing.conformance", "-p", "wncore.testing.plugin", "-q", "-x", "-p", "no:cacheprovider"]
for line in sys.stdin:
    watch = Watch()
    with contextlib.redirect_stdout(io.StringIO()) as text:
        code = pytest.main([*suite, *json.loads(line)], plugins=[watch])
    print(json.dumps([int(code), watch.failed, text.getvalue()[-3000:]]), flush=True)
"""


def surroundings(**more):
    """The environment of a process that finds the saboteurs."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])} | more


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Run the suite in a process that is kept: arguments -> exit code, first test that failed, end of the output."""
    folder = tmp_path_factory.mktemp("suite")
    environment = surroundings(HYPOTHESIS_STORAGE_DIRECTORY=str(folder), PYTEST_ADDOPTS="")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WORKER], cwd=folder, env=environment, **pipes) as process:

        def run(*arguments):
            process.stdin.write(json.dumps(arguments) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


def inherited(saboteur):
    """The operations that a saboteur has from the NumPy backend; none, if all are: then they are wrong in a part."""
    names = [contract.operation for contract in CONTRACTS]
    same = [name for name in names if getattr(saboteur, name) is getattr(NumpyBackend, name)]
    return same if len(same) < len(names) else []


@pytest.mark.parametrize("saboteur", saboteurs.ALL, ids=lambda cls: f"{cls.__module__}:{cls.__name__}")
def test_saboteur_is_rejected(suite, saboteur):
    arguments = [f"--wncore-backend={saboteur.__module__}:{saboteur.__name__}"]
    if same := inherited(saboteur):
        arguments += ["-k", f"not ({' or '.join(f'[{name}]' for name in same)})"]
    code, failed, text = suite(*arguments)
    assert code == 1, text
    assert failed or "unsupported" in text


@pytest.mark.parametrize("module", saboteurs.MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_operation_has_saboteurs(module):
    assert sum(cls.__module__ == module.__name__ for cls in saboteurs.ALL) >= 5


def test_examples_of_the_error_budget():
    assert doctest.testmod(tolerance).failed == 0


def certify(folder, *arguments):
    """Run the command, in a folder whose own pytest settings must not matter; return its exit code and certificate."""
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    command = [sys.executable, "-c", "import wncore_cli; wncore_cli.run()", "certify", "-o", "c.json", *arguments]
    code = subprocess.run(command, cwd=folder, env=surroundings(), check=False).returncode
    return code, json.loads((folder / "c.json").read_text())


@pytest.mark.parametrize("backend", RIGHT)
def test_right_backend_passes(tmp_path, backend):
    """All of the suite, in one process or two; a certificate that exists is replaced by force."""
    (tmp_path / "c.json").write_text('"old"')
    code, certificate = certify(tmp_path, backend, "--force", *RIGHT[backend])
    assert (code, certificate["passed"], certificate["complete"]) == (0, True, True)
    assert (certificate["backend"], certificate["failed"], certificate["unsupported"]) == (backend, [], {})
    assert certificate["budget_used"].keys() == {contract.operation for contract in CONTRACTS}
    if backend == "numpy":
        assert certificate["versions"].keys() == {"wncore", "numpy", "python", "platform"}
        assert (certificate["class"], certificate["device"]) == ("wncore.reference:NumpyBackend", "cpu")


def test_a_certificate_is_not_replaced_unasked(tmp_path):
    (tmp_path / "c.json").write_text('"old"')
    assert certify(tmp_path, "numpy", "--examples", "1") == (1, "old")


def test_a_part_of_the_suite_certifies_nothing(tmp_path):
    code, certificate = certify(tmp_path, "numpy", "--examples", "1", "-k", "signature")
    assert (code, certificate["passed"], certificate["complete"]) == (0, False, False)
    assert certificate["failed"] == []


def test_several_processes_certify_as_one_does(tmp_path):
    """But for the date; the certificate of a saboteur says what failed."""
    found, few = [], ["-k", "(mapping_difficulty or [histogram]) and not million"]
    for processes in ([], ["-n", "2"]):
        folder = tmp_path / f"processes{len(found)}"
        folder.mkdir()
        code, certificate = certify(folder, "saboteurs.difficulty:ZeroMedianIsNaN", "--examples", "1", *few, *processes)
        found.append({**certificate, "date": None, "failed": sorted(certificate["failed"]), "code": code})
    assert found[0] == found[1]
    assert (found[0]["code"], found[0]["passed"], found[0]["complete"]) == (1, False, False)
    assert "test_corners[mapping_difficulty]" in found[0]["failed"]
    assert found[0]["budget_used"]["mapping_difficulty"]["float64"] is None  # infinite
    assert found[0]["budget_used"]["histogram"]["float32"] <= 1
