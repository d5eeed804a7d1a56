"""Which layers are worked on: idle ones are passed over, what is left out is not judged, `inspect` lists all."""

import json
from pathlib import Path

import numpy as np
import pytest
from failing_samples import FAULTS, QUICK, WORK, W, X, dump, fit, layers_of
from rawfile import write

from wncore.dumps import open_dump
from wncore.dumps.selection import choose
from wncore.errors import DumpError, TooFewTokensError


class TestIdle:
    """Experts of a mixture that no token, or one, was sent to."""

    def mixture(self, folder: Path) -> Path:
        return dump(
            folder / "moe.safetensors",
            {f"experts.{i}": {"input": X[:n], "weight": W} for i, n in enumerate([120, 80, 1, 0])},
        )

    @pytest.mark.parametrize("command", WORK)
    def test_they_are_passed_over_with_a_note(self, run, tmp_path, command):
        code, text, err = run(command, self.mixture(tmp_path), "--json", *WORK[command])
        assert code == 0
        assert layers_of(json.loads(text)) == ["experts.0", "experts.1"]
        assert "2 layers are empty or have fewer than 2 tokens that count, and are passed over: experts.2, exp" in err
        assert run(command, self.mixture(tmp_path), "--json", "--quiet", *WORK[command])[2] == ""

    @pytest.mark.parametrize("command", WORK)
    def test_alone_they_are_an_error(self, run, tmp_path, command):
        code, text, err = run(command, self.mixture(tmp_path), "--layer", "*.[23]", *WORK[command])
        assert (code, text) == (1, "")
        assert "experts.2 has 1 tokens that count, of 1; at least 2 are needed; so it is with 1 more: experts.3" in err

    def test_inspect_lists_them(self, run, tmp_path):
        code, out, err = run("inspect", self.mixture(tmp_path))
        assert (code, err) == (0, "")
        assert "warning: experts.2 has 1 tokens that count" in out
        assert "warning: experts.3.input in" in out
        figures = json.loads(run("inspect", self.mixture(tmp_path), "--json")[1])
        assert [layer["tokens"] for layer in figures["layers"]] == [120, 80, 1, 0]
        assert "failed" not in figures

    def test_a_mask_may_make_them(self, run, tmp_path):
        mask = np.zeros(200, np.uint8)
        mask[7] = 1
        write(tmp_path / "a.safetensors", {"g.output": X, "tokens.mask": mask})
        write(tmp_path / "b.safetensors", {"h.output": X, "tokens.mask": np.ones(200, np.uint8)})
        code, out, err = run("score", tmp_path, "--json")
        assert "have fewer than 2 tokens that count, and are passed over: g" in err
        assert code == 0
        assert layers_of(json.loads(out)) == ["h"]

    def test_too_few_tokens_for_the_experts_fail_one_layer(self, run, tmp_path):
        path = dump(tmp_path / "a.safetensors", {"g": {"input": X[:9], "weight": W}, "h": fit()})
        code, text, err = run("expand", path, "--json", *QUICK, "--experts", "16")
        assert code == 1
        assert layers_of(json.loads(text)) == ["h"]
        assert "g has 8 tokens to calibrate by; 16 experts need as many" in err

    def test_an_empty_piece_is_no_empty_layer(self, tmp_path):
        write(tmp_path / "0.safetensors", {"h.output": X.astype(np.float64)})
        write(tmp_path / "1.safetensors", {"h.output": np.zeros((0, 8), np.float32)})
        layer = open_dump(tmp_path).layers["h"]
        assert layer.tokens().count == 200
        np.testing.assert_array_equal(layer.output.read(), X)


class TestChoice:
    """What is not chosen is not judged."""

    @pytest.mark.parametrize("fault", FAULTS)
    @pytest.mark.parametrize("command", WORK)
    def test_nothing_is_said_of_what_is_left_out(self, run, tmp_path, command, fault):
        path = dump(tmp_path / "a.safetensors", {"g": FAULTS[fault], "h": fit()})
        for options in (["--layer", "h"], ["--exclude", "g"], ["--layer", "*", "--exclude", "g"]):
            code, text, err = run(command, path, "--json", *options, *WORK[command])
            assert code == 0
            assert layers_of(json.loads(text)) == ["h"]
            assert "g" not in {word.strip(".:,") for word in err.split()}

    def test_a_mask_that_fits_one_layer_only(self, run, tmp_path):
        write(tmp_path / "a.safetensors", {"g.output": X, "h.output": X[:90], "tokens.mask": np.ones(200, np.uint8)})
        assert run("score", tmp_path / "a.safetensors", "--layer", "g")[0] == 0
        code, text, err = run("score", tmp_path / "a.safetensors", "--json")
        assert code == 1
        assert layers_of(json.loads(text)) == ["g"]
        assert "has 200 positions for the 90 tokens of h.output" in err

    def test_who_reads_a_spoiled_input_is_spoiled(self, tmp_path):
        """The mask of the input does not fit: nobody may take its padding for tokens."""
        write(
            tmp_path / "a.safetensors",
            {"g.input": X, "g.weight": W, "h.weight": W, "k.output": X[:9], "tokens.mask": np.ones(9, np.uint8)},
            shared_inputs='{"h": "g"}',
        )
        layers = open_dump(tmp_path / "a.safetensors").layers
        for name in ("g", "h"):
            with pytest.raises(DumpError, match=r"has 9 positions for the 200 tokens of g\.input"):
                layers[name].tokens()
        layers["k"].check()

    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("h[0].mlp", ["h[0].mlp"]),
            ("h[0].*", ["h[0].mlp"]),
            ("h[[]1].mlp", ["h[1].mlp"]),
            ("h*", ["h0.mlp", "h[0].mlp", "h[1].mlp"]),
            ("h[0-9].mlp", ["h0.mlp"]),
        ],
    )
    def test_brackets_are_brackets_too(self, run, tmp_path, pattern, found):
        names = ["h[0].mlp", "h[1].mlp", "h0.mlp"]
        path = write(tmp_path / "a.safetensors", {f"{name}.output": X for name in names})
        got = layers_of(json.loads(run("score", path, "--json", "--layer", pattern)[1]))
        assert sorted(got) == sorted(found)
        left = run("score", path, "--json", "--exclude", pattern)
        assert left[0] == (1 if sorted(got) == sorted(names) else 0)
        if left[0] == 0:
            assert sorted([*layers_of(json.loads(left[1])), *got]) == sorted(names)

    def test_what_matches_nothing_is_named(self, run, tmp_path):
        path = write(tmp_path / "a.safetensors", {"g.output": X, "h.output": X})
        err = run("score", path, "--layer", "g", "--layer", "typo", "--exclude", "none*")[2]
        assert "note: --layer typo matches none of the 2 layers" in err
        assert "note: --exclude none* matches none of the 2 layers" in err
        code, _, err = run("score", path, "--exclude", "*")
        assert code == 1
        assert "--exclude * leaves none of 2 layers: g, h; exclude fewer" in err

    def test_the_kinds_of_errors(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"g.output": X, "h.output": X[:0], "k.weight": W})
        opened = open_dump(path)
        found = choose(opened, list(opened.layers), "scorable")
        assert ([layer.name for layer in found.ready], list(found.idle), found.lacking) == (["g"], ["h"], ["k"])
        with pytest.raises(TooFewTokensError, match=r"h\.output in .* is empty"):
            choose(opened, ["h", "k"], "scorable")


class TestInspect:
    """Every layer is listed, whatever is wrong with it."""

    def test_all_faults_at_once(self, run, tmp_path):
        path = dump(tmp_path / "a.safetensors", {**FAULTS, "sound": fit()})
        code, out, err = run("inspect", path)
        assert code == 1
        listed = {line.split("  ")[0] for line in out.splitlines()}
        assert {*FAULTS, "sound"} <= listed
        assert len([line for line in out.splitlines() if line.startswith("error: ")]) == len(FAULTS)
        assert err.count("wncore: error: ") == len(FAULTS)
        document = json.loads(run("inspect", path, "--json")[1])
        assert {one["name"] for one in document["failed"]} == set(FAULTS)
        assert len(document["layers"]) == len(FAULTS) + 1

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_dump_without_a_sound_layer(self, run, tmp_path, fault):
        code, out, err = run("inspect", dump(tmp_path / "a.safetensors", {"h": FAULTS[fault]}))
        assert code == 1
        assert "\nh  " in out
        assert err.startswith("wncore: error: ")
        assert err.count("\n") == 1

    @pytest.mark.parametrize("counting", [0, 1])
    def test_tokens_that_do_not_count_are_padding(self, run, tmp_path, counting):
        mask = np.arange(200) < counting
        path = write(tmp_path / "a.safetensors", {"h.input": X, "h.weight": W, "tokens.mask": mask})
        code, out, _ = run("inspect", path)
        assert code == 0
        assert f"warning: h has {counting} tokens that count, of 200" in out
        (one,) = json.loads(run("inspect", path, "--json")[1])["layers"]
        assert (one["tokens"], one["padding"]) == (counting, 200 - counting)

    def test_padding_of_an_input_alone(self, run, tmp_path):
        path = write(tmp_path / "a.safetensors", {"h.input": X, "tokens.mask": np.arange(200) < 150})
        (one,) = json.loads(run("inspect", path, "--json")[1])["layers"]
        assert (one["tokens"], one["padding"]) == (150, 50)

    @pytest.mark.parametrize("part", ["gram", "weight"])
    def test_what_prune_refuses_of_a_gram(self, run, tmp_path, part):
        layer = {"gram": X.T @ X, "weight": W.copy()}
        layer[part][2, 3] = np.nan
        path = dump(tmp_path / "a.safetensors", {"h": layer})
        says = f"h.{part} holds NaN or infinity: 1 of its"
        assert says in run("prune", path)[2]
        code, out, _ = run("inspect", path)
        assert code == 1
        assert says in out


class TestShared:
    """An input that is stored for others: it is of no use to itself."""

    SHARED = json.dumps({"up": "hold", "gate": "hold"})

    def lent(self, folder: Path, **more: dict) -> Path:
        layers = {"hold": {"input": X}, "up": {"weight": W}, "gate": {"weight": -W}}
        return dump(folder / "a.safetensors", layers | more, shared_inputs=self.SHARED)

    @pytest.mark.parametrize("command", WORK)
    def test_its_layer_is_left_out_with_a_note(self, run, tmp_path, command):
        code, text, err = run(command, self.lent(tmp_path), "--json", *WORK[command])
        assert code == 0
        assert sorted(layers_of(json.loads(text))) == ["gate", "up"]
        assert "and are left out: hold\n" in err

    @pytest.mark.parametrize("command", WORK)
    def test_alone_it_is_an_error(self, run, tmp_path, command):
        code, _, err = run(command, self.lent(tmp_path), "--layer", "hold", *WORK[command])
        assert code == 1
        assert ("hold has an input but no weight" if command == "score" else "none of hold has a weight and") in err

    def test_one_that_nobody_reads_is_still_an_error(self, run, tmp_path):
        code, text, err = run("score", self.lent(tmp_path, more={"input": X + 1}), "--json")
        assert code == 1
        assert sorted(layers_of(json.loads(text))) == ["gate", "up"]
        assert "more has an input but no weight and no output" in err


class TestNotes:
    """What was passed over is listed also when a command fails."""

    @pytest.mark.parametrize("command", ["score", "inspect", "prune", "expand"])
    def test_a_dump_without_a_layer_says_what_was_passed_over(self, run, tmp_path, command):
        path = write(tmp_path / "a.safetensors", {"norm.weight": X[0], "ids": np.zeros((2, 3), np.int64)})
        code, _, err = run(command, path)
        assert code == 1
        *notes, line = err.splitlines()
        assert sorted(notes) == [
            "note: ids is passed over: its type is I64",
            "note: norm.weight is passed over: its shape is (8,)",
        ]
        assert "holds no layer" in line
        assert run(command, path, "--quiet")[2].count("\n") == 1

    @pytest.mark.parametrize("command", ["score", "inspect", "prune", "expand"])
    def test_of_many_the_number_is_told(self, run, tmp_path, command):
        path = write(tmp_path / "a.safetensors", {"g.output": X, **{f"n.{i:02}.weight": X[0] for i in range(30)}})
        code, _, err = run(command, path, "--layer", "nothing")
        assert code == 1
        assert err.count("is passed over") == 20
        assert "note: and 10 more notes" in err
