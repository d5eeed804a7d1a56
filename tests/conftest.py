"""Hypothesis profiles, dev (50 examples), ci (200), nightly (10,000), chosen by HYPOTHESIS_PROFILE.

And what many tests start from: a dump to score, a random model, the command line. What `slow.txt` lists is marked slow,
and runs first, so that no process is left with it at the end.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import wncore_cli
from wncore.dumps import write_dump

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.register_profile("nightly", max_examples=10_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
SLOW = set(Path(__file__).with_name("slow.txt").read_text().split())


def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.partition("[")[0] in SLOW:
            item.add_marker("slow")
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(scope="session")
def outputs():
    """Outputs of seven neurons over 512 tokens: the third cubed, the fifth constant."""
    y = np.random.default_rng(0).standard_normal((512, 7))
    y[:, 2] **= 3
    y[:, 4] = 1.5
    return y.astype(np.float32)


@pytest.fixture
def dump(tmp_path, outputs):
    """A layer with outputs and one with inputs and weights, sequences of 32 tokens."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((512, 5), dtype=np.float32), rng.standard_normal((4, 5), dtype=np.float32)
    path = tmp_path / "acts.safetensors"
    write_dump(path, {"a.9.up.output": outputs, "a.10.up.input": x, "a.10.up.weight": w}, sequence_length=32)
    return path


@pytest.fixture
def certified(tmp_path):
    """Call `wncore certify` in a process of its own, which must pass: arguments -> the certificate."""

    def call(*arguments):
        command = [sys.executable, "-c", "import wncore_cli; wncore_cli.run()", "certify", "-o", "c.json", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((tmp_path / "c.json").read_text())

    return call


@pytest.fixture
def run(capsys):
    """Call the command line: arguments -> exit code, stdout, stderr."""

    def call(*arguments):
        code = wncore_cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def one_thread():
    """Let torch take one thread in the tests of a module that uses this: several would wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder of a random Llama, to be left as it is."""
    from model_families import make

    return make(tmp_path_factory.mktemp("made") / "model", "llama")


@pytest.fixture
def llama(made, tmp_path):
    """A copy of it, to be spoiled."""
    shutil.copytree(made, tmp_path / "model")
    return tmp_path / "model"
