"""The torch backend is certified on the CPU, by the command that users type."""

import json
import os
import subprocess
import sys

import pytest

from wncore.testing.contracts import CONTRACTS

pytest.importorskip("torch")
PLAIN = {contract.operation: "plain torch" for contract in CONTRACTS}


def certified(folder, kernels, **environment):
    """Certify with these kernels; return the certificate."""
    command = [sys.executable, "-c", "import wncore_cli; wncore_cli.run()", "certify", "torch", "--device", "cpu"]
    command += ["--option", f"kernels={kernels}", "--examples", "25", "-o", "c.json"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "c.json").read_text())


def test_plain_torch_is_certified(tmp_path):
    found = certified(tmp_path, "plain")
    assert found["passed"]
    assert found["unsupported"] == {}
    assert found["options"] == {"device": "cpu", "kernels": "plain"}
    assert found["operations"] == PLAIN
    shares = found["budget_used"]
    assert shares.keys() == PLAIN.keys()
    assert shares["routed_linear"].keys() == {"float64", "float32", "float16", "bfloat16"}
