"""Every option of `wncore expand` does what it says, and the document says so."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from strategies_experts import clustered, weights

from wncore.dumps import write_dump, write_tensors

QUICK = ("--no-wasserstein", "--experts", 3)


@pytest.fixture
def acts(tmp_path):
    path = tmp_path / "acts.safetensors"
    tensors = {"up.input": clustered(blobs=3)[0], "up.weight": weights(), "gate.weight": weights(6, seed=1)}
    write_dump(path, tensors, shared_inputs={"gate": "up"})
    return path


def described(run, *arguments):
    """Return the document, and what it says of the last layer."""
    code, out, err = run("expand", *arguments, "--json")
    assert code == 0, err
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    return found, found["layers"][-1]


@pytest.mark.parametrize(
    ("options", "where", "expected"),
    [
        (["--sparsity", "2:4"], ["pattern"], "2:4"),
        (["--sparsity", "2:4"], ["group"], None),
        (["--method", "wanda"], ["method"], "wanda"),
        (["--method", "wanda"], ["group"], "row"),
        (["--method", "wanda"], ["iterations"], None),
        (["--iterations", 7], ["iterations"], 7),
        (["--group", "block"], ["group"], "block"),
        (["--no-resolve"], ["resolved"], False),
        (["--bits", 4, "--bits-group", 6], ["bits"], 4),
        (["--bits", 4, "--bits-group", 6], ["bits_group"], 6),
        (["--bits", 4], ["resolved"], False),
        (["--damping", "published"], ["damping", "kind"], "published"),
        (["--damping", "published"], ["damping", "ridge"], [0.01] * 3),
        (["--ridge", 0.3], ["damping", "ridge"], [0.3] * 3),
        (["--published"], ["method"], "sparsegpt"),
        (["--published"], ["group"], "block"),
        (["--published"], ["resolved"], False),
        (["--published"], ["prior"], 0),
        (["--published"], ["own_share_per_expert"], [1] * 3),
        (["--published", "--prior", 2], ["prior"], 2),
        (["--prior", 0], ["own_share_per_expert"], [1] * 3),
        (["--components", 5], ["clusters", "components"], 5),
        (["--restarts", 1], ["clusters", "restarts"], 1),
        (["--seed", 9], ["clusters", "seed"], 9),
        (["--balanced"], ["clusters", "balanced"], True),
        (["--min-tokens", 3], ["clusters", "least_tokens"], 3),
        (["--min-tokens", 200], ["merged"], 2),
        (["--holdout", 0], ["tokens"], 300),
        (["--holdout", 0], ["relative_error_holdout"], None),
        (["--holdout", 0], ["neurons", "relative_improvement_holdout"], None),
        (["--holdout", 0.5], ["tokens_holdout"], 150),
        (["--skip-tokens", 5, "--length", 30], ["tokens"], 225),
        ([], ["disentanglement"], None),
        ([], ["neurons", "wasserstein_dense"], None),
    ],
    ids=str,
)
def test_options_reach_the_document(run, acts, options, where, expected):
    found = described(run, acts, *QUICK, *options)[1]
    for key in where:
        found = found[key]
    assert found == expected


def test_the_shares_of_what_is_borrowed(run, acts):
    _, layer = described(run, acts, *QUICK, "--prior", 3)
    counts = np.array(layer["tokens_per_expert"])
    np.testing.assert_allclose(layer["own_share_per_expert"], counts / (counts + 3 * 12), rtol=1e-12)


def test_settings_of_the_run_are_at_the_top(run, acts):
    options = ["--seed", 4, "--holdout", 0.2, "--memory", "128MiB", "--threads", 1, "--length", 30, "--skip-tokens", 2]
    found, _ = described(run, acts, *QUICK, *options)
    expected = {"seed": 4, "holdout": 0.2, "memory": 2**27, "threads": 1, "length": 30, "skip_tokens": 2}
    expected |= {"source": str(acts), "backend": "numba"}
    assert {key: found[key] for key in expected} == expected


def test_balanced_clusters_are_of_about_one_size(run, tmp_path):
    path = tmp_path / "cloud.safetensors"
    write_dump(path, {"l.input": np.random.default_rng(0).standard_normal((300, 12)), "l.weight": weights()})
    options = [*QUICK, "--experts", 9, "--components", 3]
    unequal, equal = (described(run, path, *options, *more)[1]["tokens_per_expert"] for more in ([], ["--balanced"]))
    assert np.abs(np.array(equal) - 30).max() <= 1
    assert np.abs(np.array(unequal) - 30).max() > 3


def test_another_seed_is_another_start(run, acts):
    options = [*QUICK, "--experts", 7, "--components", 4, "--restarts", 1]
    first, again, other = (described(run, acts, *options, "--seed", seed)[1] for seed in (0, 0, 1))
    assert first == again
    assert first["clusters"]["inertia"] != other["clusters"]["inertia"]


def test_more_restarts_are_never_worse(run, acts):
    options = [*QUICK, "--experts", 9, "--components", 6]
    few, many = (described(run, acts, *options, "--restarts", n)[1]["clusters"]["inertia"] for n in (1, 20))
    assert many < few


def test_distances_and_difficulties_by_neuron(run, acts):
    found, layer = described(run, acts, "--experts", 3, "--pairs", 1000)
    assert found["pairs"] == 1000
    neurons = layer["neurons"]
    for name in ("wasserstein_dense", "wasserstein_weighted", "difficulty_dense", "difficulty_weighted", "two_sample"):
        assert len(neurons[name]) == 8
        assert all(value is not None and value >= 0 for value in neurons[name])
    assert layer["disentanglement"]["noise"] > 0
    assert described(run, acts, "--experts", 3, "--pairs", 0)[1]["neurons"]["difficulty_dense"] is None


def test_only_layers_that_match(run, acts):
    found, layer = described(run, acts, *QUICK, "--layer", "u*")
    assert [one["name"] for one in found["layers"]] == ["up"]
    assert layer["router"] == "up"


def test_sparsities_by_neuron(run, acts, tmp_path):
    shares = {"up.sparsity": np.array([0.0, 0.75] * 4), "gate.sparsity": np.zeros(6)}
    write_tensors(tmp_path / "s.safetensors", shares)
    out = tmp_path / "e.safetensors"
    found, layer = described(run, acts, *QUICK, "--by-neuron", tmp_path / "s.safetensors", "-o", out)
    assert (layer["pattern"], layer["group"]) == ("by neuron", "row")
    assert found["by_neuron"] == str(tmp_path / "s.safetensors")
    experts = load_file(out)
    for expert in experts["up.experts"]:
        assert expert[::2].tobytes() == weights()[::2].tobytes()
        np.testing.assert_array_equal((expert[1::2] == 0).sum(axis=1), 9)
    assert all(expert.tobytes() == weights(6, seed=1).tobytes() for expert in experts["gate.experts"])
    assert run("verify", out, "--against", acts)[0] == 0


def test_pictures_are_drawn(run, acts, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "pictures"
    assert run("expand", acts, "--experts", 3, "--plot", folder, "--layer", "up", "--pairs", 100)[0] == 0
    drawn = list(folder.iterdir())
    assert drawn
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_a_sparsity_of_none_and_of_all(run, acts):
    _, layer = described(run, acts, *QUICK, "--sparsity", 0)
    assert (layer["relative_error"], layer["zeros"]) == (0, 0)
    assert layer["neurons"]["relative_improvement"] == [1] * 8
    layer = described(run, acts, "--experts", 3, "--sparsity", 1)[1]
    assert layer["relative_error"] == pytest.approx(1)
    np.testing.assert_allclose(layer["neurons"]["relative_improvement"], 1)
    assert layer["neurons"]["wasserstein_weighted"] == [None] * 8  # constant outputs


@pytest.mark.parametrize(
    ("what", "unit"), [("up.input", 1e-100), ("up.input", 1e100), ("up.weight", 1e-160), ("up.weight", 1e160)]
)
def test_units_change_no_error(run, tmp_path, what, unit):
    found = []
    for factor in (1.0, unit):
        held = {"up.input": clustered(dtype="float64")[0], "up.weight": weights(dtype="float64")}
        write_dump(tmp_path / "u.safetensors", held | {what: held[what] * factor}, force=True)
        found.append(described(run, tmp_path / "u.safetensors", *QUICK)[1])
    assert found[1]["tokens_per_expert"] == found[0]["tokens_per_expert"]
    for key in ("relative_error", "relative_error_holdout"):
        assert found[1][key] == pytest.approx(found[0][key], rel=1e-6)
        np.testing.assert_allclose(found[1][f"{key}_per_expert"], found[0][f"{key}_per_expert"], rtol=1e-6)
    improvement = [one["neurons"]["relative_improvement_holdout"] for one in found]
    np.testing.assert_allclose(*improvement, rtol=1e-6)
