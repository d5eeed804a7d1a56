"""Files larger than the allowed memory are scored within it; what is computed agrees with what is stored."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import wncore_cli
from wncore.dumps import write_dump

pytestmark = pytest.mark.xdist_group("alone")
TOKENS, NEURONS = 131_072, 1_536
MEASURE = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-c", "import wncore_cli; wncore_cli.run()", *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A layer of 403 MB in bfloat16."""
    path = tmp_path_factory.mktemp("large") / "large.safetensors"
    block = np.random.default_rng(0).standard_normal((TOKENS // 32, NEURONS), dtype=np.float32)
    wide = np.broadcast_to(block.astype(ml_dtypes.bfloat16), (32, *block.shape))
    write_dump(path, {"layer.output": wide}, sequence_length=1024)
    yield path
    path.unlink()


@pytest.mark.parametrize("estimator", ["exact", "streaming"])
def test_resident_memory_stays_within_the_budget_plus_300_mib(large, estimator):
    command = [sys.executable, "-c", MEASURE, "score", str(large), "--memory", "64MiB", "--estimator", estimator]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    resident = int(run.stdout.splitlines()[-1])
    assert resident <= 64 + 300


@pytest.mark.parametrize("estimator", ["exact", "streaming"])
@pytest.mark.parametrize("memory", ["1GiB", "2MiB"])
def test_computed_outputs_score_like_stored_ones(tmp_path, capsys, estimator, memory):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 256, 24)).astype(ml_dtypes.bfloat16)
    w = rng.standard_normal((40, 24)).astype(ml_dtypes.bfloat16)
    b = rng.standard_normal(40).astype(np.float16)
    mask = (np.arange(256) < np.array([[256], [100], [255], [31]])).astype(np.uint8)
    y = x.astype(np.float64) @ w.astype(np.float64).T + b.astype(np.float64)
    computed, stored = tmp_path / "computed.safetensors", tmp_path / "stored.safetensors"
    write_dump(computed, {"l.input": x, "l.weight": w, "l.bias": b, "tokens.mask": mask})
    write_dump(stored, {"l.output": y, "tokens.mask": mask})
    found = []
    for path in (computed, stored):
        assert wncore_cli.main(["score", str(path), "--json", "--memory", memory, "--estimator", estimator]) == 0
        found.append(json.loads(capsys.readouterr().out)["layers"][0])
    assert found[0]["tokens"] == found[1]["tokens"] == mask.sum()
    unit = 2.0**-24  # outputs are computed in float32
    for key in ("wasserstein", "wasserstein_error", "skewness"):
        np.testing.assert_allclose(found[0][key], found[1][key], rtol=0, atol=8 * 24**0.5 * unit * 20)
    np.testing.assert_allclose(found[0]["std"], found[1]["std"], rtol=8 * 24**0.5 * unit)


def test_pruning_holds_one_layer_at_a_time(tmp_path):
    rng = np.random.default_rng(2)
    tensors = {}
    for i in range(24):
        tensors[f"h.{i}.input"] = rng.standard_normal((512, 768), dtype=np.float32)
        tensors[f"h.{i}.weight"] = rng.standard_normal((256, 768), dtype=np.float32)
    write_dump(tmp_path / "many.safetensors", tensors)
    arguments = ["prune", str(tmp_path / "many.safetensors"), "--memory", "64MiB", "--method", "wanda", "--quiet"]
    command = [sys.executable, "-c", MEASURE, *arguments, "-o", str(tmp_path / "pruned.safetensors")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout.splitlines()[-1]) <= 64 + 300


def test_experts_wait_for_the_end_outside_of_memory(tmp_path):
    """Those of all layers together are larger than what is allowed."""
    rng = np.random.default_rng(3)
    tensors = {}
    for i in range(30):
        tensors[f"h.{i}.input"] = rng.standard_normal((256, 192), dtype=np.float32)
        tensors[f"h.{i}.weight"] = rng.standard_normal((896, 192), dtype=np.float32)
    write_dump(tmp_path / "many.safetensors", tensors)
    out = tmp_path / "experts.safetensors"
    arguments = ["expand", str(tmp_path / "many.safetensors"), "--memory", "144MiB", "--method", "magnitude", "--quiet"]
    arguments += ["--no-resolve", "--no-wasserstein", "--restarts", "1", "--min-tokens", "1", "-o", str(out)]
    run = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    resident = int(run.stdout.splitlines()[-1])
    assert resident <= 144 + 300 < 200 + out.stat().st_size / 2**20
