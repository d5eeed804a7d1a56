"""A test of the tests: the conformance suite passes right backends and rejects each saboteur.

Two processes run the suite over and over, since a fresh process for each saboteur would mostly import.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import saboteurs

HERE = Path(__file__).parent
RIGHT = ["numpy", "numba", "saboteurs:RightInFloat32"]
WRONG = [f"saboteurs:{cls.__name__}" for cls in saboteurs.ALL]

WORKER = """
import contextlib, io, json, sys
import pytest
from hypothesis import Phase, settings

class Watch:
    failed = None
    def pytest_configure(self, config):  # after the plugin's: a failure need not be shrunk here
        settings.register_profile("quick", settings.get_profile("wncore"), phases=[Phase.generate])
        settings.load_profile("quick")
    def pytest_runtest_logreport(self, report):
        if report.failed and self.failed is None:
            self.failed = [report.nodeid.rpartition("::")[2], str(report.longrepr).splitlines()[-8:]]

suite = ["--pyargs", "wncore.testing.conformance", "-p", "wncore.testing.plugin", "-q", "-x", "-p", "no:cacheprovider"]
for line in sys.stdin:
    watch = Watch()
    with contextlib.redirect_stdout(io.StringIO()) as text:
        code = pytest.main([*suite, f"--wncore-backend={line.strip()}"], plugins=[watch])
    print(json.dumps([int(code), watch.failed, text.getvalue()[-2000:]]), flush=True)
"""


class Worker:
    """A process that certifies one backend after the other."""

    def __init__(self, folder: str) -> None:
        environment = {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        environment |= {"HYPOTHESIS_STORAGE_DIRECTORY": folder, "PYTEST_ADDOPTS": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **environment},
        )

    def certify(self, backend: str) -> list:
        self.process.stdin.write(backend + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="session")
def verdicts():
    """Start all trials; each value is a future of [exit code, first failure, end of the output]."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        free = [Worker(folder), Worker(folder)]

        def certify(backend):
            worker = free.pop()
            try:
                return worker.certify(backend)
            finally:
                free.append(worker)

        workers = list(free)
        yield {backend: pool.submit(certify, backend) for backend in RIGHT + WRONG}
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.process.communicate()


@pytest.mark.parametrize("backend", RIGHT)
def test_right_backend_passes(verdicts, backend):
    code, failed, text = verdicts[backend].result()
    assert (code, failed) == (0, None), text


@pytest.mark.parametrize("backend", WRONG)
def test_saboteur_is_rejected(verdicts, backend):
    code, failed, text = verdicts[backend].result()
    assert code == 1, text
    print(f"caught by {failed[0] if failed else 'nothing certified'}")


def test_there_are_saboteurs_for_every_operation():
    for operation in ("gaussian_distance", "histogram", "distance_bounds", "mapping_difficulty", "routed_linear"):
        assert sum(operation in vars(cls) for cls in saboteurs.ALL) >= 5
