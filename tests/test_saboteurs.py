"""A test of the tests: the conformance suite passes right backends and rejects every saboteur.

Two processes run the suite over and over: a fresh one for each saboteur would mostly import.
"""

import doctest
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import pytest
import saboteurs

from wncore import tolerance

HERE = Path(__file__).parent
RIGHT = ["numpy", "numba", "saboteurs.right:RightInFloat32", "saboteurs.right:RightInHalf"]
WRONG = [f"{cls.__module__}:{cls.__name__}" for cls in saboteurs.ALL]

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
        code = pytest.main([*suite, f"--wncore-backend={line.strip()}"], plugins=[watch])
    print(json.dumps([int(code), watch.failed, text.getvalue()[-3000:]]), flush=True)
"""


def start(folder):
    """Start a process that certifies the backends whose names it reads."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, "HYPOTHESIS_STORAGE_DIRECTORY": str(folder), "PYTEST_ADDOPTS": ""}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", WORKER], cwd=folder, env={**os.environ, **environment}, **pipes)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Certify all; each value is a future of [exit code, first test that failed, end of the output]."""
    folder = tmp_path_factory.mktemp("certify")
    workers, free = [start(folder), start(folder)], Queue()
    for worker in workers:
        free.put(worker)

    def certify(backend):
        worker = free.get()
        try:
            worker.stdin.write(f"{backend}\n")
            worker.stdin.flush()
            return json.loads(worker.stdout.readline())
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        yield {backend: pool.submit(certify, backend) for backend in RIGHT + WRONG}
        pool.shutdown(cancel_futures=True)
    for worker in workers:
        worker.communicate()


@pytest.mark.parametrize("backend", RIGHT)
def test_right_backend_passes(verdicts, backend):
    code, failed, text = verdicts[backend].result()
    assert (code, failed) == (0, None), text


@pytest.mark.parametrize("backend", WRONG)
def test_saboteur_is_rejected(verdicts, backend):
    code, failed, text = verdicts[backend].result()
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
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    code = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
    return code, json.loads((folder / "c.json").read_text())


def test_the_certificate_of_a_saboteur_says_what_failed(tmp_path):
    code, certificate = certify(tmp_path, "saboteurs.difficulty:ZeroMedianIsNaN", "--examples", "1")
    assert (code, certificate["passed"], certificate["complete"]) == (1, False, True)
    assert "test_corners[mapping_difficulty]" in certificate["failed"]
    assert certificate["budget_used"]["mapping_difficulty"]["float64"] is None  # infinite
    assert certificate["budget_used"]["histogram"]["float32"] <= 1


def test_a_part_of_the_suite_certifies_nothing(tmp_path):
    code, certificate = certify(tmp_path, "numpy", "--examples", "1", "-k", "histogram")
    assert (code, certificate["passed"], certificate["complete"]) == (0, False, False)
    assert certificate["failed"] == []


def test_a_certificate_is_replaced_only_by_force(tmp_path):
    (tmp_path / "c.json").write_text('"old"')
    assert certify(tmp_path, "numpy", "--examples", "1") == (1, "old")
    code, certificate = certify(tmp_path, "numpy", "--examples", "1", "--force")
    assert (code, certificate["passed"]) == (0, True)
    assert certificate["versions"].keys() == {"wncore", "numpy", "python", "platform"}
    assert (certificate["backend"], certificate["class"]) == ("numpy", "wncore.reference:NumpyBackend")
    assert (certificate["device"], certificate["unsupported"]) == ("cpu", {})


def test_several_processes_certify_as_one_does(tmp_path):
    """But for the date."""
    found = []
    for processes in ([], ["-n", "2"]):
        folder = tmp_path / f"processes{len(found)}"
        folder.mkdir()
        code, certificate = certify(folder, "saboteurs.difficulty:ZeroMedianIsNaN", "--examples", "1", *processes)
        found.append({**certificate, "date": None, "failed": sorted(certificate["failed"]), "code": code})
    assert found[0] == found[1]
    assert found[0]["code"] == 1
