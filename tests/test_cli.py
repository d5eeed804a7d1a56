"""The command line, as a user sees it: what it prints, what it writes, how it fails."""

import csv
import json
import math

import numpy as np
import pytest

import wncore
from wncore.dumps import write_dump

TOKENS, NEURONS, LENGTH = 512, 7, 32  # of the fixture `dump`


def document(run, *arguments):
    code, out, _ = run("score", *arguments, "--json")
    assert code == 0
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def test_json_has_what_the_design_promises(run, dump, outputs):
    found = document(run, dump)
    assert found["schema"] == "wncore.score/1"
    assert [layer["name"] for layer in found["layers"]] == ["a.9.up", "a.10.up"]  # numbers by value
    first, second = found["layers"]
    want = wncore.gaussian_distance(outputs)
    assert first["wasserstein"][4] is None
    assert first["flags"]["constant"] == [4]
    for key in ("wasserstein", "wasserstein_error", "mean", "std", "skewness", "excess_kurtosis"):
        assert len(first[key]) == NEURONS
    live = [i for i in range(NEURONS) if i != 4]
    np.testing.assert_allclose([first["wasserstein"][i] for i in live], want[live], rtol=1e-12)
    assert first["mapping_difficulty"] is None
    assert len(second["mapping_difficulty"]) == 4
    assert first["noise_floor"] == pytest.approx(1.19 / math.sqrt(TOKENS))


def test_numbers_agree_with_numpy_and_scipy(run, dump, outputs):
    from scipy import stats

    first = document(run, dump)["layers"][0]
    y = np.delete(outputs.astype(float), 4, axis=1)
    for key, want in {
        "mean": y.mean(0),
        "std": y.std(0),
        "skewness": stats.skew(y),
        "excess_kurtosis": stats.kurtosis(y),
    }.items():
        np.testing.assert_allclose(np.delete(np.array(first[key], float), 4), want, rtol=1e-9, atol=1e-12)


def test_table_lists_layers_and_top_neurons(run, dump):
    code, out, err = run("score", dump, "--top", 3)
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["layer", "neurons", "tokens"]
    assert lines[1].split()[:3] == ["a.9.up", "7", "512"]
    assert lines[5].split()[:2] == ["a.9.up", "2"]  # the cubed neuron leads
    assert "1 of 7 neurons are constant: 4" in out
    assert "nan" not in out.lower()


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet", "safetensors"])
def test_every_format_holds_the_same_scores(run, dump, tmp_path, suffix, outputs):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"scores.{suffix}"
    assert run("score", dump, "-o", path)[0] == 0
    want = wncore.gaussian_distance(outputs)
    want[4] = np.nan
    if suffix == "csv":
        rows = [row for row in csv.DictReader(path.read_text().splitlines()) if row["layer"] == "a.9.up"]
        got = [float(row["wasserstein"] or "nan") for row in rows]
    elif suffix == "json":
        got = np.array(json.loads(path.read_text())["layers"][0]["wasserstein"], float)
    elif suffix == "parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        assert table["wasserstein"].null_count == 1
        got = np.array(table["wasserstein"].to_pylist()[:NEURONS], float)
    else:
        from safetensors.numpy import load_file

        got = load_file(path)["a.9.up.wasserstein"]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_an_output_that_exists_is_kept(run, dump, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("precious")
    code, _, err = run("score", dump, "-o", path)
    assert code == 1
    assert "exists already" in err
    assert "--force" in err
    assert path.read_text() == "precious"
    assert run("score", dump, "-o", path, "--force")[0] == 0
    assert path.read_text() != "precious"


def test_against_reports_the_change_of_each_neuron(run, dump, tmp_path, outputs):
    other = tmp_path / "other.safetensors"
    write_dump(other, {"a.9.up.output": outputs[:, ::-1]})
    found = document(run, dump, "--layer", "a.9.*", "--against", other)["layers"][0]
    want = wncore.gaussian_distance(outputs)
    assert found["wasserstein_change"][0] == pytest.approx(want[6] - want[0], rel=1e-9)
    assert found["wasserstein_change"][4] is None
    code, out, _ = run("score", dump, "--layer", "a.9.*", "--against", other)
    assert code == 0
    assert "most changed" in out
    code, _, err = run("score", dump, "--against", other)
    assert code == 1
    assert "lacks a.10.up" in err


def test_layer_patterns(run, dump):
    assert [layer["name"] for layer in document(run, dump, "--layer", "a.1?.*")["layers"]] == ["a.10.up"]
    code, _, err = run("score", dump, "--layer", "b*")
    assert code == 1
    assert "matches none of the 2 layers: a.9.up, a.10.up" in err


def test_skipped_tokens_are_left_out(run, dump, outputs):
    found = document(run, dump, "--skip-tokens", 2, "--layer", "a.9.*")["layers"][0]
    kept = outputs[np.arange(TOKENS) % LENGTH >= 2]
    assert found["tokens"] == len(kept)
    assert found["wasserstein"][0] == pytest.approx(wncore.gaussian_distance(kept)[0], rel=1e-12)


def test_first_tokens_that_rule_a_neuron_are_flagged(run, tmp_path):
    y = np.random.default_rng(3).standard_normal((2048, 3)).astype(np.float32)
    y[::64, 1] = 300
    path = tmp_path / "sinks.safetensors"
    write_dump(path, {"layer.output": y}, sequence_length=64)
    found = document(run, path)["layers"][0]
    assert 1 in found["flags"]["first_token"]
    assert found["wasserstein"][1] > 10 * document(run, path, "--skip-tokens", 1)["layers"][0]["wasserstein"][1]


def test_streaming_brackets_exact(run, dump):
    exact = document(run, dump)["layers"][0]
    streaming = document(run, dump, "--streaming")["layers"][0]
    for i in [0, 1, 2, 3, 5, 6]:
        assert streaming["wasserstein_low"][i] <= exact["wasserstein"][i] <= streaming["wasserstein_high"][i]
        assert streaming["wasserstein_error"][i] == pytest.approx(exact["wasserstein_error"][i], rel=0.2)


def test_sampled_estimator_is_seeded(run, dump):
    values = [
        document(run, dump, "--estimator", "sampled", "--seed", seed)["layers"][0]["wasserstein"] for seed in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]


def test_stored_outputs_score_alike_for_any_threads_memory_and_backend(run, tmp_path):
    y = np.random.default_rng(5).standard_normal((1024, 70)).astype(np.float32) ** 3
    path = tmp_path / "wide.safetensors"
    write_dump(path, {"layer.output": y})
    want = document(run, path)["layers"]
    for options in (["--threads", "1"], ["--threads", "3"], ["--memory", "2MiB"], ["--memory", "1MiB"]):
        assert document(run, path, *options)["layers"] == want, options
    reference = document(run, path, "--backend", "numpy")["layers"][0]
    np.testing.assert_allclose(reference["wasserstein"], want[0]["wasserstein"], rtol=1e-10)


def test_too_little_memory_says_what_is_needed(run, tmp_path):
    path = tmp_path / "long.safetensors"
    write_dump(path, {"layer.output": np.random.default_rng(6).standard_normal((2**18, 1), dtype=np.float32)})
    code, _, err = run("score", path, "--memory", "1MiB")
    assert code == 1
    assert "--streaming" in err
    assert run("score", path, "--memory", "1MiB", "--streaming")[0] == 0


def test_plots(run, dump, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "pictures"
    assert run("score", dump, "--plot", folder)[0] == 0
    found = sorted(path.name for path in folder.iterdir())
    assert found == [
        "000-a.9.up.neurons.png",
        "000-a.9.up.wasserstein.png",
        "001-a.10.up.difficulty.png",
        "001-a.10.up.neurons.png",
        "001-a.10.up.wasserstein.png",
    ]
    code, _, err = run("score", dump, "--plot", folder)
    assert code == 1
    assert "exists already" in err


def test_names_of_tensors_steer_neither_paths_nor_terminals(run, tmp_path, outputs):
    pytest.importorskip("matplotlib")
    path = tmp_path / "bad.safetensors"
    write_dump(path, {"../../up\x1b[31m$x_{": outputs})
    code, out, _ = run("score", path, "--plot", tmp_path / "pictures")
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b" in out
    written = {found.relative_to(tmp_path).parts[0] for found in tmp_path.rglob("*.png")}
    assert written == {"pictures"}


def test_the_shipped_dump_has_its_known_scores(run):
    from test_house import ROOT

    folder = ROOT / "data" / "smollm2-135m"
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert max(sizes) < 8e6
    assert sum(sizes) < 32e6
    layers = {layer["name"]: layer for layer in document(run, folder, "--pairs", 0)["layers"]}
    assert len(layers) == 4
    scores = np.array(layers["model.layers.9.mlp.up_proj"]["wasserstein"])
    assert layers["model.layers.9.mlp.up_proj"]["tokens"] == 16_384
    assert np.median(scores) == pytest.approx(0.0424, abs=2e-4)
    assert scores.max() == pytest.approx(0.5506, abs=2e-4)
    assert np.quantile(scores, 0.97) > 0.18
    assert int(scores.argmax()) == 785
