"""`wncore expand`, as a user sees it: experts, report, sweeps, options, notes."""

import json
from hashlib import sha256

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from strategies_experts import clustered, losses, same_partition

import wncore
from wncore.dumps import write_dump
from wncore.experts.experts import Experts

TOKENS, SEEN, D = 400, 350, 24  # of 8 sequences the last is held out
SIZES = {"a.gate": 12, "a.up": 16}
QUICK = ("--no-wasserstein", "--restarts", 2)


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(3)
    found = {"a.up.input": clustered(TOKENS, D)[0], "a.up.bias": rng.standard_normal(16).astype(np.float32)}
    return found | {f"{name}.weight": rng.standard_normal((m, D)).astype(np.float32) for name, m in SIZES.items()}


@pytest.fixture
def acts(tmp_path, tensors):
    """Two layers with one input, eight sequences."""
    path = tmp_path / "acts.safetensors"
    write_dump(path, tensors, sequence_length=50, shared_inputs={"a.gate": "a.up"})
    return path


def document(run, *arguments):
    code, out, err = run("expand", *arguments, "--json")
    assert code == 0, err
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def stored_document(path):
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["wncore.expand"])


def tensors_of(path):
    return {name: (value.dtype, value.shape, value.tobytes()) for name, value in load_file(path).items()}


def route(held, owner, x):
    """The nearest centroid of each token, from the tensors of a file."""
    mean, components, centroids = (
        held[f"{owner}.router.{part}"].astype(float) for part in ("mean", "components", "centroids")
    )
    z = (x.astype(float) - mean) @ components.T
    return np.square(z[:, None] - centroids).sum(axis=2).argmin(axis=1)


# ---- what is written and reported


def test_experts_and_the_report_on_them_are_true(run, acts, tensors, tmp_path):
    out, x = tmp_path / "e.safetensors", tensors["a.up.input"]
    found = document(run, acts, "-o", out, "--experts", 4, "--sparsity", 0.7, "--pairs", 2000)
    held = load_file(out)
    router = {f"a.gate.router.{part}" for part in ("mean", "components", "centroids", "counts")}
    assert set(held) == {"a.gate.experts", "a.up.experts", "a.up.bias"} | router
    np.testing.assert_array_equal(held["a.up.bias"], tensors["a.up.bias"])
    assert found["schema"] == "wncore.expand/1"
    assert [layer["name"] for layer in found["layers"]] == ["a.gate", "a.up"]
    labels = route(held, "a.gate", x)
    assert same_partition(labels, clustered(TOKENS, D)[1])
    for layer in found["layers"]:
        experts, dense = held[f"{layer['name']}.experts"], tensors[f"{layer['name']}.weight"]
        assert experts.dtype == dense.dtype
        assert (layer["shape"], layer["experts"], layer["asked"]) == (list(dense.shape), 4, 4)
        assert (layer["router"], layer["merged"], layer["control"]) == ("a.gate", 0, None)
        assert (layer["tokens"], layer["tokens_holdout"]) == (SEEN, TOKENS - SEEN)
        assert layer["tokens_per_expert"] == np.bincount(labels[:SEEN]).tolist()
        assert layer["holdout_per_expert"] == np.bincount(labels[SEEN:], minlength=4).tolist()
        assert layer["zeros_per_expert"] == [7 * dense.size // 10] * 4
        assert np.count_nonzero(experts == 0) == layer["zeros"]
        assert np.count_nonzero(experts) == layer["stored_weights"]
        for key, part in (("relative_error", slice(0, SEEN)), ("relative_error_holdout", slice(SEEN, TOKENS))):
            lost, whole = losses(experts, dense, x[part], labels[part])
            assert layer[key] == pytest.approx(lost.sum() / whole.sum(), rel=1e-4)
            np.testing.assert_allclose(layer[f"{key}_per_expert"], lost.sum(axis=1) / whole.sum(axis=1), rtol=1e-4)
            np.testing.assert_allclose(layer["neurons"][key], lost.sum(axis=0) / whole.sum(axis=0), rtol=1e-3)
        assert (layer["method"], layer["group"], layer["resolved"]) == ("admm", "layer", True)
        assert layer["damping"]["kind"] == "unit-diagonal"
        for per_expert in (layer["damping"]["ridge"], layer["damping"]["raised"], layer["own_share_per_expert"]):
            assert len(per_expert) == 4
        expected = wncore.gaussian_distance(x @ dense.T)
        np.testing.assert_allclose(layer["neurons"]["wasserstein_dense"], expected, rtol=1e-4)
        assert {len(column) for column in layer["neurons"].values()} == {len(dense)}
    assert held["a.gate.router.counts"].tolist() == found["layers"][0]["tokens_per_expert"]


def test_the_file_says_how_it_was_made_and_what_it_holds(run, acts, tensors, tmp_path):
    out = tmp_path / "e.safetensors"
    settings = ["--experts", 3, "--seed", 5, "--holdout", 0.2, "--skip-tokens", 1, "--memory", "64MiB", "--threads", 1]
    printed = document(run, acts, "-o", out, *settings, *QUICK)
    stored = stored_document(out)
    for layer in printed["layers"]:
        del layer["neurons"]
    assert stored["layers"] == printed["layers"]
    expected = {"schema": "wncore.expand/1", "source": str(acts), "backend": "numba", "threads": 1, "memory": 2**26}
    expected |= {"seed": 5, "holdout": 0.2, "skip_tokens": 1, "length": None, "packed": False}
    assert {key: stored[key] for key in expected} == expected
    assert stored["tensors"] == {name: sha256(value[2]).hexdigest() for name, value in tensors_of(out).items()}
    assert stored["inputs"] == {name: sha256(value.tobytes()).hexdigest() for name, value in tensors.items()}


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--balanced"],
        ["--packed"],
        ["--sparsity", "2:4", "--bits", 4],
        ["--published"],
        ["--holdout", 0],
        ["--backend", "numpy"],
    ],
    ids=str,
)
def test_what_is_written_passes_verification(run, acts, tmp_path, options):
    out = tmp_path / "e.safetensors"
    assert run("expand", acts, "-o", out, "--experts", 3, *QUICK, *options)[0] == 0
    code, told, err = run("verify", out, "--against", acts)
    assert (code, "FAILED" in told) == (0, False), told + err


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("options", [[], ["--method", "wanda", "--no-resolve"], ["--sparsity", "2:4", "--holdout", 0]],
                         ids=str)  # fmt: skip
def test_one_expert_is_what_prune_writes_to_the_bit(run, tensors, tmp_path, dtype, options):
    acts, experts, pruned = (tmp_path / f"{name}.safetensors" for name in ("acts", "experts", "pruned"))
    write_dump(acts, {"l.input": tensors["a.up.input"].astype(dtype), "l.weight": tensors["a.up.weight"].astype(dtype)})
    assert run("expand", acts, "-o", experts, "--experts", 1, "--no-wasserstein", *options)[0] == 0
    assert run("prune", acts, "-o", pruned, "--no-wasserstein", *options)[0] == 0
    many, one = Experts.load(experts).weights, wncore.dumps.open_dump(pruned).layers["l"].weight.read()
    assert (many.dtype, many.shape) == (one.dtype, (1, *one.shape))
    assert many.tobytes() == one.tobytes()
    ours, theirs = (
        json.loads(run(verb, acts, "--no-wasserstein", "--json", *options, *more)[1])["layers"][0]
        for verb, more in (("expand", ["--experts", 1]), ("prune", []))
    )
    for key in ("relative_error", "relative_error_holdout", "zeros", "method", "group", "resolved", "tokens"):
        assert ours[key] == theirs[key]
    assert ours["neurons"]["relative_error"] == theirs["neurons"]["relative_error"]
    assert ours["damping"]["ridge"] == [theirs["damping"]["ridge"]]


def test_packed_files_are_smaller_and_hold_the_same(run, acts, tmp_path):
    plain, packed = tmp_path / "plain.safetensors", tmp_path / "packed.safetensors"
    common = ["--experts", 8, "--sparsity", 0.9, "--layer", "a.up", *QUICK]
    assert run("expand", acts, "-o", plain, *common)[0] == 0
    assert run("expand", acts, "-o", packed, "--packed", *common)[0] == 0
    sizes = [sum(len(value[2]) for value in tensors_of(path).values()) for path in (plain, packed)]
    assert sizes[1] < 0.4 * sizes[0]
    assert stored_document(packed)["packed"] is True
    one, other = Experts.load(plain), Experts.load(packed)
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.router.centroids, other.router.centroids)


def test_a_run_is_repeated_to_the_bit(run, acts, tmp_path):
    files = [tmp_path / f"{name}.safetensors" for name in ("first", "again", "threads")]
    for path, threads in zip(files, (1, 1, 2), strict=True):
        assert run("expand", acts, "-o", path, "--experts", 5, "--threads", threads, "--quiet")[0] == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert tensors_of(files[0]) == tensors_of(files[2])


# ---- sweeps


def test_a_list_of_numbers_writes_a_file_for_each(run, acts, tmp_path):
    found = document(run, acts, "-o", tmp_path / "e.safetensors", "--experts", "1,2,4", *QUICK)
    names = {path.name for path in tmp_path.iterdir()} - {"acts.safetensors"}
    assert names == {"e-1.safetensors", "e-2.safetensors", "e-4.safetensors"}
    assert "layers" not in found
    assert [(one["asked"], one["pattern"], one["control"]) for one in found["runs"]] == [
        (k, "0.5", None) for k in (1, 2, 4)
    ]
    for k, one in zip((1, 2, 4), found["runs"], strict=True):
        assert len(load_file(tmp_path / f"e-{k}.safetensors")["a.up.experts"]) == k
        assert one["layers"] == document(run, acts, "--experts", k, *QUICK)["layers"]


def test_a_run_is_named_by_the_number_that_was_asked_for(run, acts):
    for one, k in zip(
        document(run, acts, "--experts", "2,16", "--min-tokens", 60, *QUICK)["runs"], (2, 16), strict=True
    ):
        assert one["asked"] == k
        assert all(layer["asked"] == k == layer["experts"] + layer["merged"] for layer in one["layers"])
    assert one["layers"][0]["merged"] > 0


def test_numbers_and_sparsities(run, acts, tmp_path):
    options = ["--experts", "1,3", "--sparsity", "0.5,2:4", *QUICK]
    found = document(run, acts, "-o", tmp_path / "e.safetensors", *options)
    for one, name in zip(found["runs"], ("1-0.5", "1-2of4", "3-0.5", "3-2of4"), strict=True):
        stored = stored_document(tmp_path / f"e-{name}.safetensors")
        assert [layer["zeros"] for layer in one["layers"]] == [layer["zeros"] for layer in stored["layers"]]
        assert f"{one['asked']}-{one['pattern'].replace(':', 'of')}" == name
    kept = load_file(tmp_path / "e-3-2of4.safetensors")["a.up.experts"] != 0
    assert (kept.reshape(3, 16, D // 4, 4).sum(axis=3) == 2).all()
    assert (
        run("expand", acts, "-o", tmp_path / "s.safetensors", "--experts", 3, "--sparsity", "0.5,0.6", *QUICK)[0] == 0
    )
    assert (tmp_path / "s-0.6.safetensors").exists()


def test_auto_reports_and_writes_the_number_it_found(run, acts, tmp_path):
    out = tmp_path / "e.safetensors"
    (up,) = document(run, acts, "-o", out, "--experts", "auto", "--layer", "a.up", *QUICK)["layers"]
    numbers = [1, 2, 4, 8, 16]
    runs = document(run, acts, "--experts", ",".join(map(str, numbers)), "--layer", "a.up", *QUICK)["runs"]
    held = [one["layers"][0]["relative_error_holdout"] for one in runs]
    first = next(i for i in range(len(held)) if i + 1 == len(held) or not held[i + 1] < held[i])
    assert up.pop("tried") == [list(pair) for pair in zip(numbers, held, strict=True)][: first + 2]
    assert up == {key: value for key, value in runs[first]["layers"][0].items() if key != "tried"}
    assert len(load_file(out)["a.up.experts"]) == up["experts"]


def test_controls_are_reported_but_not_written(run, acts, tmp_path):
    out = tmp_path / "e.safetensors"
    found = document(run, acts, "-o", out, "--experts", 4, "--sparsity", 0.6, "--controls", *QUICK)
    assert [one["control"] for one in found["runs"]] == [None, "random", "stored"]
    ours, random, stored = (one["layers"][1] for one in found["runs"])
    assert len(load_file(out)["a.up.experts"]) == 4
    assert stored_document(out)["layers"][1]["zeros"] == ours["zeros"]
    assert random["clusters"]["components"] is None
    assert random["tokens_per_expert"] == [88, 88, 87, 87]
    assert 0 <= stored["stored_weights"] - ours["stored_weights"] / 4 < 4
    assert stored["pattern"] == "0.9"


# ---- tables and notes


def test_tables_have_a_row_for_each_layer_and_run(run, acts):
    code, out, err = run("expand", acts, "--experts", "1,4", "--controls", "--top", 2, "--pairs", 500)
    assert code == 0
    head, _, *tables = out.split("\n")
    assert head.startswith("admm + re-solve; k-means in 1 component")
    assert head.endswith("seed 0")
    blocks = "\n".join(tables).split("\n\n")
    assert len(blocks) == 3
    for block in blocks[:2]:
        rows = [line.split("  ")[1].strip() for line in block.splitlines() if line.startswith("  ")]
        assert rows == ["1", "4", "4, random clusters", "4, stored as one"] * 2
    assert blocks[2].startswith("most entangled of")
    assert sum(line.startswith("  ") for line in blocks[2].splitlines()) == 4  # two of each layer
    assert "note: the experts were not kept; -o FILE.safetensors keeps them" in err


def test_fewer_tables_on_request(run, acts):
    whole = run("expand", acts, "--experts", 2, "--pairs", 0)[1]
    assert len(whole.split("\n\n")) == 4
    assert len(run("expand", acts, "--experts", 2, "--pairs", 0, "--top", 0)[1].split("\n\n")) == 3
    out = run("expand", acts, "--experts", 2, "--no-wasserstein", "--top", 3)[1]
    assert len(out.split("\n\n")) == 3
    assert "most improved of" in out
    assert sum(line.startswith("  ") for line in out.split("\n\n")[2].splitlines()) == 6


def test_what_was_not_sound_is_pointed_out(run, acts, tensors, tmp_path):
    path = tmp_path / "few.safetensors"
    x = tensors["a.up.input"][:60].copy()
    x[:, 7] = x[:, 5]
    write_dump(path, {"l.input": x, "l.weight": tensors["a.up.weight"], "m.weight": tensors["a.up.weight"]})
    options = ["--experts", 6, "--min-tokens", 8, "--ridge", 0, "--holdout", 0, *QUICK]
    code, _, err = run("expand", path, *options)
    assert code == 0
    for note in (
        "clusters had fewer than 8 tokens or none and were merged; ",
        "have fewer tokens than there are inputs (24); the smallest has ",
        "had to be raised",
        "note: 1 layers lack an input or a weight, and are left out: m",
        "note: no tokens were held out: the errors are those on the calibration tokens alone",
        "note: the experts were not kept",
    ):
        assert note in err
    assert all(line.startswith("note: ") for line in err.splitlines())
    assert run("expand", path, *options, "--quiet")[2] == ""
    assert run("expand", acts, "--experts", 2, *QUICK, "-o", tmp_path / "e.safetensors")[2] == ""
