"""What users are told who named the wrong thing: what it is, and what to type in its place."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from failing_samples import WORK, W, X, dump, fit
from rawfile import write

from wncore.errors import InputError
from wncore.files import check_new_folder, check_output
from wncore.resources import size


@pytest.fixture
def model(tmp_path):
    """A folder as a model's, its name with a blank; nothing opens its weights."""
    folder = tmp_path / "a model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    write(folder / "model.safetensors", {"h.0.mlp.up.weight": W, "norm.weight": W[0]})
    return folder


def capture(model):
    return f"wncore capture {shlex.quote(str(model))} --text FILE -o DUMP"


class TestModels:
    """A model in the place of a dump, or of a part of it in the place of the model."""

    @pytest.mark.parametrize(
        ("command", "name"), [("prune", "model.safetensors"), ("expand", ""), ("expand", "model.safetensors")]
    )
    def test_a_dump_is_captured_first(self, run, model, command, name):
        code, out, err = run(command, model / name)
        assert (code, out) == (1, "")
        assert (
            err
            == f"wncore: error: {model / name} holds the weights of a model alone; what its layers read and give is "
            f"written by: {capture(model)}\n"
        )

    def test_so_it_is_for_score_of_a_file_and_of_a_second_dump(self, run, model, tmp_path):
        assert capture(model) in run("score", model / "model.safetensors")[2]
        path = dump(tmp_path / "a.safetensors", {"h": fit()})
        code, _, err = run("score", path, "--against", model)
        assert code == 1
        assert capture(model) in err

    def test_inspect_lists_the_weights_and_says_so(self, run, model):
        code, out, _ = run("inspect", model)
        assert code == 0
        says = f"these are the weights of a model alone; what its layers read and give is written by: {capture(model)}"
        assert f"note: {says}\n" in out
        assert capture(model) in json.loads(run("inspect", model, "--json")[1])["notes"][-1]

    @pytest.mark.parametrize("command", WORK)
    def test_a_dump_beside_a_config_is_a_dump(self, run, model, command):
        path = dump(model / "acts.safetensors", {"h": fit()})
        assert run(command, path, *WORK[command])[0] == 0
        assert run("inspect", path)[1].count("capture") == 0

    def test_outputs_beside_a_config_are_scored(self, run, model):
        assert run("score", dump(model / "acts.safetensors", {"h": {"output": X}}))[0] == 0

    def test_a_config_is_no_failed_download(self, run, model):
        err = run("prune", model / "config.json")[2]
        assert "it is the description of a model; give its folder to `wncore capture`" in err

    @pytest.mark.parametrize("option", [("--text", "t"), ("--windows", 2), ("--dry-run",)])
    def test_options_of_models(self, run, model, tmp_path, option):
        err = run("score", tmp_path / "nosuch", *option)[2]
        assert f"{tmp_path / 'nosuch'} does not exist; give the folder of a Hugging Face model" in err
        err = run("score", model / "config.json", *option)[2]
        assert (
            f"{option[0]} is for models, and {model / 'config.json'} is none; give the folder of the model, {model}"
            in err
        )
        path = dump(tmp_path / "a.safetensors", {"h": fit()})
        assert run("score", path, *option)[2].endswith(f"{option[0]} is for models, and {path} is none; leave it out\n")

    @pytest.mark.parametrize("command", [("eval",), ("capture", "-o", "x")])
    def test_verbs_on_models_take_the_folder(self, run, model, command):
        for name in ("config.json", "model.safetensors"):
            err = run(*command, model / name, "--text", "t")[2]
            assert f"{model / name} is a file of the model {model}; give the folder itself" in err

    def test_a_folder_has_no_experts(self, run, model, tmp_path):
        err = run("verify", model)[2]
        assert f"{model} is a folder, and experts are one file; name that which `wncore expand` wrote" in err
        assert "(.safetensors files there: model.safetensors)" in err
        (tmp_path / "empty").mkdir()
        assert "there: none)" in run("verify", tmp_path / "empty")[2]


class TestGroups:
    """mlp, attention and all stand for layers of models."""

    @pytest.mark.parametrize(("group", "glob"), [("mlp", "*.mlp.*"), ("attention", "*attn*"), ("all", "*")])
    @pytest.mark.parametrize("command", [*WORK, "inspect"])
    def test_a_dump_has_globs(self, run, tmp_path, group, glob, command):
        path = dump(tmp_path / "a.safetensors", {"h.0.mlp.up": fit(), "h.0.attn.q": fit()})
        more = WORK.get(command, [])
        code, _, err = run(command, path, "--layer", group, *more)
        assert code == 1
        assert f"--layer {group} matches none of the 2 layers" in err
        assert f"; {group} stands for layers of a model, in a dump give a glob: --layer '{glob}'" in err
        assert run(command, path, "--layer", glob, *more)[0] == 0
        code, out, err = run(command, path, "--exclude", group, *more)
        assert code == 0
        assert f"in a dump give a glob: --exclude '{glob}'" in out + err

    def test_a_layer_of_that_name_is_one(self, run, tmp_path):
        path = dump(tmp_path / "a.safetensors", {"mlp": fit(), "h": fit()})
        code, out, err = run("score", path, "--layer", "mlp", "--json")
        assert (code, err) == (0, "")
        assert [layer["name"] for layer in json.loads(out)["layers"]] == ["mlp"]


class TestExact:
    """`score --exact` names itself, and is refused where it changes nothing."""

    def test_it_is_refused_without_effect(self, run, tmp_path):
        path = dump(tmp_path / "a.safetensors", {"h": fit()})
        for more in ((), ("--estimator", "exact")):
            code, _, err = run("score", path, "--exact", "h", *more)
            assert code == 2
            assert "--exact has no effect where all layers are scored exactly; leave it out" in err

    def test_globs_that_match_nothing(self, run, tmp_path):
        path = dump(tmp_path / "a.safetensors", {"g": fit(), "h": fit()})
        code, _, err = run("score", path, "--streaming", "--exact", "k*")
        assert code == 1
        assert "error: --exact k* matches none of the 2 layers: g, h" in err
        code, out, err = run("score", path, "--streaming", "--exact", "k*", "--exact", "g", "--json")
        assert (code, err) == (0, "note: --exact k* matches none of the 2 layers\n")
        exact, streamed = json.loads(out)["layers"]
        assert exact["wasserstein"] == json.loads(run("score", path, "--json")[1])["layers"][0]["wasserstein"]
        assert exact["wasserstein"] != streamed["wasserstein"]


class TestPlaces:
    """Where nothing can be written, whatever permissions say of it."""

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
    def test_proc(self, run, tmp_path):
        folder = "/proc"
        with pytest.raises(InputError, match=rf"^{folder} cannot be written to \(.*\); choose another folder for x"):
            check_output(Path(folder, "x.json"), force=False)
        with pytest.raises(InputError, match="cannot be written to"):
            check_new_folder(Path(folder, "x"))
        path = dump(tmp_path / "a.safetensors", {"h": fit()})
        for command in WORK:
            suffix = "json" if command == "score" else "safetensors"
            code, out, err = run(command, path, "-o", f"{folder}/x.{suffix}", *WORK[command])
            assert (code, out) == (1, "")
            assert f"{folder} cannot be written to" in err.splitlines()[-1]

    def test_the_trial_leaves_nothing(self, tmp_path):
        check_output(tmp_path / "x.json", force=False)
        check_new_folder(tmp_path / "x")
        assert not list(tmp_path.iterdir())

    def test_sizes_have_the_unit_that_shows_them(self):
        assert [size(count) for count in (0, 1024, 2**20 - 1, 50 * 2**20, 2**30)] == [
            "0 MiB", "1 KiB", "1024 KiB", "50 MiB", "1.00 GiB"
        ]  # fmt: skip


def test_a_name_is_said_once(run, tmp_path):
    path = write(tmp_path / "a.safetensors", {"l.output": X, "tokens.mask": np.zeros(200, np.uint8)})
    assert "warning: l has 0 tokens that count, of 200" in run("inspect", path)[1]
    layers = {"l": {"input": X, "weight": W}, "lo": {"input": X[:1], "weight": W}}
    out = run("inspect", dump(tmp_path / "b.safetensors", layers))[1]
    assert "warning: lo has 1 tokens" in out
