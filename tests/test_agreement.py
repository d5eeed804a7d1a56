"""Rounding in the run that a dump is from is told from another run, and from a bias that is missing."""

import json

import ml_dtypes
import numpy as np
import pytest
from strategies import BACKENDS

from wncore.agreement import explain
from wncore.dumps import open_dump, write_dump
from wncore.inspection import inspect_layer
from wncore.layers.activations import open_layer

backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
BIAS = np.linspace(-1, 1, 32, dtype=np.float32)


def rounded(a, bits, up=True):
    """Round float32 to so many bits of mantissa, or cut it off."""
    drop = 23 - bits
    raw = np.asarray(a, np.float32).view(np.uint32) + np.uint32(up << (drop - 1))
    return (raw >> drop << drop).astype(np.uint32).view(np.float32)


def bfloat16(a):
    return np.asarray(a).astype(ml_dtypes.bfloat16).astype(np.float32)


def float16(a):
    return np.asarray(a).astype(np.float16).astype(np.float32)


def product(x, w):
    return (x.astype(np.float64) @ w.T.astype(np.float64)).astype(np.float32)


def draw(d, n=256):
    rng = np.random.default_rng(d)
    return rng.standard_normal((n, d), dtype=np.float32), rng.standard_normal((32, d), dtype=np.float32)


RUNS = {
    "bfloat16": lambda x, w: (bfloat16(x), bfloat16(w), bfloat16(product(bfloat16(x), bfloat16(w)))),
    "bfloat16, cut off": lambda x, w: (bfloat16(x), bfloat16(w), rounded(product(bfloat16(x), bfloat16(w)), 7, False)),
    "bfloat16, by autocast": lambda x, w: (x, w, bfloat16(product(bfloat16(x), bfloat16(w)))),
    "bfloat16, in float64": lambda x, w: [a.astype(float) for a in RUNS["bfloat16"](x, w)],
    "float16": lambda x, w: (float16(x), float16(w), float16(product(float16(x), float16(w)))),
    "float32, in float64": lambda x, w: [a.astype(float) for a in (x, w, x @ w.T)],
    "TF32": lambda x, w: (x, w, product(rounded(x, 10), rounded(w, 10))),
    "TF32, cut off": lambda x, w: (x, w, product(rounded(x, 10, False), rounded(w, 10, False))),
}  # fmt: skip


@pytest.fixture
def layer_of(tmp_path):
    def write(x, w, y, **others):
        path = tmp_path / "a.safetensors"
        others = {f"l.{name}": value for name, value in others.items()}
        write_dump(path, {"l.input": x, "l.weight": w, "l.output": y} | others, force=True)
        return open_dump(path).layers["l"]

    return write


@backends
@pytest.mark.parametrize("d", [16, 300])
@pytest.mark.parametrize("run", RUNS)
def test_the_rounding_of_a_run_is_named(backend, layer_of, run, d):
    found = inspect_layer(layer_of(*RUNS[run](*draw(d))), backend)
    assert found.disagreement > found.tolerance
    assert found.rounding == run.partition(",")[0]
    assert found.rounding in found.agreement
    assert found.warnings == []


@pytest.mark.parametrize("share", [3e-3, 0.02, 0.2])
@pytest.mark.parametrize("run", RUNS)
def test_a_bias_that_is_missing_is_still_pointed_out(layer_of, run, share):
    x, w, y = RUNS[run](*draw(300))
    size = max(
        share, 0.05 if run.startswith("bfloat16") else 0
    )  # of a gap that bfloat16 itself may leave, nothing shows
    shifted = y + (size * np.linalg.norm(y) / np.sqrt(y.size)).astype(y.dtype)
    if "16" in run:
        shifted = (bfloat16 if run.startswith("b") else float16)(shifted).astype(y.dtype)
    found = inspect_layer(layer_of(x, w, shifted), BACKENDS[0])
    assert found.agreement is None
    assert "disagree" in found.warnings[0]


@pytest.mark.parametrize("run", RUNS)
def test_one_wrong_neuron_is_found_among_those_that_rounding_explains(layer_of, run):
    x, w, y = RUNS[run](*draw(300))
    y[:, 3] = y[:, 4]
    found = inspect_layer(layer_of(x, w, y), BACKENDS[0])
    assert found.rounding is None
    assert found.worst_neuron == 3
    assert "neuron 3 by" in found.warnings[0]


@pytest.mark.parametrize("run", RUNS)
def test_tokens_of_another_run_are_found(layer_of, run):
    x, w, y = RUNS[run](*draw(300))
    y[100:110] = y[110:120].copy()
    found = inspect_layer(layer_of(x, w, y), BACKENDS[0])
    assert found.rounding is None


def test_whole_numbers_are_no_sign_of_bfloat16(layer_of):
    x, w = (np.rint(3 * a) for a in draw(30))
    y = product(x, w)
    assert inspect_layer(layer_of(x, w, y), BACKENDS[0]).disagreement == 0
    found = inspect_layer(layer_of(x, w, y + np.rint(3 * BIAS)), BACKENDS[0])
    assert found.rounding is None
    assert len(found.warnings) == 1


def test_a_gap_smaller_than_that_of_tf32_is_not_called_so(layer_of):
    x, w = draw(16)
    y = product(x, w)
    noise = np.random.default_rng(0).standard_normal(y.shape)
    assert inspect_layer(layer_of(x, w, (y * (1 + 3e-5 * noise)).astype(np.float32)), BACKENDS[0]).rounding is None


@backends
def test_terms_that_cancel_are_rounded_more(backend, layer_of):
    x, w = draw(128)
    x[:, 1], x[:, 2], w[:, 1:3] = 60_013.7, -60_013.7, 0.7
    y = np.cumsum(x[:, None] * w, axis=2, dtype=np.float32)[..., -1]  # term by term
    found = inspect_layer(layer_of(x, w, y), backend)
    assert found.disagreement > found.tolerance
    assert found.rounding == "cancellation"
    assert "its terms nearly cancel" in found.agreement
    assert inspect_layer(layer_of(x, w, y + 5 * BIAS), backend).rounding is None


@backends
@pytest.mark.parametrize("unit", [2.0**-60, 2.0**60])
def test_the_unit_changes_nothing(backend, layer_of, unit):
    x, w, y = RUNS["TF32"](*draw(100))
    expected = explain(open_layer(layer_of(x, w, y), backend, memory=2**28))
    scaled = layer_of(np.float32(unit) * x, np.float32(1 / unit) * w, y)
    assert explain(open_layer(scaled, backend, memory=2**28))[0] == expected[0] == "TF32"


def test_little_memory_and_padding_change_nothing(layer_of, tmp_path):
    x, w, y = RUNS["bfloat16"](*draw(300))
    y[-50:] = 7
    mask = (np.arange(256) < 206).astype(np.uint8)
    path = tmp_path / "a.safetensors"
    write_dump(path, {"l.input": x, "l.weight": w, "l.output": y, "l.bias": 0 * BIAS, "tokens.mask": mask})
    layer = open_dump(path).layers["l"]
    for memory in (2**20, 2**30):
        name, explained = explain(open_layer(layer, BACKENDS[0], memory=memory))
        assert name == "bfloat16"
        assert explained.shape == (32,)


def test_the_command_names_it(run, tmp_path):
    x, w, y = RUNS["TF32"](*draw(300))
    path = tmp_path / "a.safetensors"
    write_dump(path, {"l.input": x, "l.weight": w, "l.output": y})
    code, out, _ = run("inspect", path)
    assert code == 0
    assert "l: output and input x weight differ by 0.0003, as products in TF32 do" in out
    assert "warning" not in out
    code, out, _ = run("inspect", path, "--json")
    (layer,) = json.loads(out)["layers"]
    assert (layer["rounding"], layer["warnings"]) == ("TF32", [])
