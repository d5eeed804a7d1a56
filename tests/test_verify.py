"""`wncore verify` finds whatever is not as it was, in the file alone or against its source."""

import json
import shutil
from collections.abc import Iterator

import expert_samples as samples
import pytest
import rawfile
from strategies import BACKENDS

from wncore.dumps import open_dump
from wncore.experts.files import load_experts, save_experts
from wncore.experts.recomputation import verify_against
from wncore.experts.verification import verify_file
from wncore.fast import NumbaBackend

NUMBERS = ["tokens_per_expert", "holdout_per_expert", "relative_error", "relative_error_holdout",
           "relative_error_per_expert", "relative_error_holdout_per_expert"]  # fmt: skip


def flips(sample: samples.Sample) -> Iterator[tuple[str, int]]:
    """Name the first, the last and some bits in between, of every tensor."""
    for name, (_, _, content) in rawfile.read(sample.path)[0].items():
        bits = 8 * len(content)
        yield from ((name, bit) for bit in sorted({0, bits // 3, bits // 2, bits - 1}))


class TestSound:
    """Nothing is wrong with what nobody touched."""

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize(("k", "pattern"), [(1, "0.5"), (3, "0.5"), (3, "2:4"), (4, "0"), (3, "1"), (60, "0.3")])
    def test_every_number_is_found_again_to_the_bit(self, tmp_path, run, k, pattern, packed):
        sample = samples.write_sample(tmp_path, k, packed, pattern=pattern)
        assert samples.failures(run, sample.path) == []
        assert samples.failures(run, sample.path, "--against", sample.dump) == []
        document = json.loads(run("verify", "--json", sample.path, "--against", sample.dump)[1])
        assert (document["rule"], document["differences"]) == ("equal", [])
        compared = [one for one in document["checks"] if one["name"] in NUMBERS]
        assert len(compared) == 2 * len(NUMBERS)
        assert all(one["recorded"] == one["recomputed"] and one["off"] == 0 for one in compared)

    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
    @pytest.mark.parametrize("made", BACKENDS, ids=lambda backend: backend.name)
    @pytest.mark.parametrize("checked", ["numpy", "numba"])
    def test_another_backend_finds_them_within_the_budget(self, tmp_path, run, made, checked, dtype):
        sample = samples.write_sample(tmp_path, 5, backend=made, dtype=dtype)
        arguments = sample.path, "--against", sample.dump, "--backend", checked, "--memory", "2MiB"
        assert samples.failures(run, *arguments) == []
        document = json.loads(run("verify", "--json", *arguments)[1])
        assert document["rule"] == ("equal" if checked == made.name else "budget")
        assert not any("memory" in difference for difference in document["differences"])
        for one in document["checks"]:
            if one["name"].startswith("relative_error"):
                assert one["off"] <= one["allowed"] < 1e-3

    def test_several_sources_follow_one_option(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        tensors, metadata = rawfile.read(sample.dump)
        first = {name: tensors.pop(name) for name in ("a.gate.weight", "a.up.bias")}
        paths = [samples.rewrite(tmp_path / "1", first, metadata), samples.rewrite(tmp_path / "2", tensors, metadata)]
        assert samples.failures(run, sample.path, "--against", *paths) == []
        assert samples.failures(run, sample.path, "--against", paths[1], "--against", paths[0]) == []


class TestDamage:
    """Whatever changes is found."""

    @pytest.mark.parametrize("packed", [False, True])
    def test_a_single_bit_of_any_tensor(self, tmp_path, run, packed):
        sample = samples.write_sample(tmp_path, packed=packed)
        tensors, metadata = rawfile.read(sample.path)
        for name, bit in flips(sample):
            dtype, shape, content = tensors[name]
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            path = samples.rewrite(tmp_path / "changed", tensors | {name: (dtype, shape, bytes(changed))}, metadata)
            layer = name.rpartition(".router" if ".router." in name else ".")[0].removesuffix(".experts")
            assert f"{layer} tensors" in samples.failures(run, path), f"bit {bit} of {name}"

    @pytest.mark.parametrize("name", ["a.up.experts", "a.up.bias", "a.gate.experts"])
    def test_bytes_that_are_read_as_another_type(self, tmp_path, run, name):
        sample = samples.write_sample(tmp_path, dtype="float16")
        tensors, metadata = rawfile.read(sample.path)
        tensors[name] = "BF16", *tensors[name][1:]
        samples.rewrite(sample.path, tensors, metadata)
        assert f"{name.rpartition('.')[0]} tensors" in samples.failures(run, sample.path)

    def test_any_number_of_the_document(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        tensors, metadata = rawfile.read(sample.path)
        text = metadata["wncore.expand"]
        for old, new in (('"seed": 0', '"seed": 1'), ('"tokens": ', '"tokens": 1'), ('"zeros": 8', '"zeros": 7')):
            assert old in text
            edited = {
                "schema": "1",
                "expand": text.replace(old, new),
                "expand.sha256": metadata["wncore.expand.sha256"],
            }
            rawfile.write(tmp_path / "changed.safetensors", tensors, **edited)
            assert samples.failures(run, tmp_path / "changed.safetensors")[0] == "document"

    @pytest.mark.parametrize(
        ("field", "wrong", "failing"),
        [
            ("zeros", 80, ["a.up zeros"]),
            ("zeros_per_expert", [27, 27, 28], ["a.up zeros"]),
            ("pattern", "0.6", ["a.up zeros"]),
            ("pattern", "2:4", ["a.up zeros"]),
            ("pattern", "half", ["a.up zeros"]),
            ("group", "row", ["a.up zeros"]),
            ("group", "column", ["a.up zeros"]),
            ("tokens", 300, ["a.up router"]),
            ("tokens_holdout", 0, ["a.up router"]),
            ("tokens_per_expert", [1, 1, 1], ["a.up router"]),
            ("tokens_per_expert", [1, 1], ["a.up router"]),
            ("holdout_per_expert", [1, 1], ["a.up router"]),
        ],
    )
    def test_a_document_that_is_sealed_again_but_not_true(self, tmp_path, run, field, wrong, failing):
        sample = samples.write_sample(tmp_path)
        tensors, document = samples.parts(sample.path)
        assert document["layers"][0][field] != wrong
        document["layers"][0][field] = wrong
        samples.put_together(sample.path, tensors, document)
        assert samples.failures(run, sample.path) == failing

    @pytest.mark.parametrize("field", NUMBERS)
    @pytest.mark.parametrize("backend", ["numba", "numpy"])
    def test_numbers_that_only_the_source_can_tell(self, tmp_path, run, field, backend):
        sample = samples.write_sample(tmp_path)
        tensors, document = samples.parts(sample.path)
        value = document["layers"][1][field]
        step = 1 if field.startswith(("tokens", "holdout")) else 1e-3 if backend == "numpy" else 1e-15
        document["layers"][1][field] = [*value[:-1], value[-1] + step] if isinstance(value, list) else value + step
        samples.put_together(sample.path, tensors, document)
        found = samples.failures(run, sample.path, "--against", sample.dump, "--backend", backend)
        assert f"a.gate {field}" in found
        assert not [one for one in found if one.startswith("a.up")]

    def test_null_in_place_of_a_number_and_lists_of_other_lengths(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        tensors, document = samples.parts(sample.path)
        document["layers"][0] |= {"relative_error": None, "relative_error_per_expert": [0.1]}
        samples.put_together(sample.path, tensors, document)
        found = samples.failures(run, sample.path, "--against", sample.dump)
        assert found == ["a.up relative_error", "a.up relative_error_per_expert"]


class TestCommand:
    """What the command says, and whom it asks."""

    def test_alone_it_names_the_command_that_does_more(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        code, out, err = run("verify", sample.path)
        assert code == 0
        assert "a.gate  zeros            ok      66 in all, 66 asked for" in out
        assert err == (
            f"note: only the file itself was checked; `wncore verify {sample.path} --against {sample.dump}` "
            f"recomputes its numbers\n"
        )
        shutil.move(sample.dump, tmp_path / "moved.safetensors")
        assert "--against SOURCE` recomputes" in run("verify", sample.path)[2]
        assert run("verify", "--quiet", sample.path)[2] == ""

    def test_the_table_says_by_which_rule(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        out = run("verify", sample.path, "--against", sample.dump)[1]
        assert "under the conditions recorded, numbers must be equal to the bit" in out
        out = run("verify", sample.path, "--against", sample.dump, "--backend", "numpy")[1]
        assert "within the error budget, since backend numpy, not numba, threads None, not 2" in out

    def test_a_second_file_without_against_is_wrong_usage(self, tmp_path, run):
        sample = samples.write_sample(tmp_path)
        code, _, err = run("verify", sample.path, sample.dump)
        assert code == 2
        assert "is one file too many; --against goes before the source" in err

    @pytest.mark.parametrize("name", ["cupy", "os:system", "wncore.fast:NumbaBackend"])
    def test_a_file_names_no_code_to_run(self, tmp_path, run, name):
        sample = samples.write_sample(tmp_path)
        tensors, document = samples.parts(sample.path)
        samples.put_together(sample.path, tensors, document | {"backend": name})
        code, out, err = run("verify", sample.path, "--against", sample.dump)
        assert (code, out) == (1, "")
        assert f"was computed by the backend '{name}', which is not installed; choose one: --backend numba or" in err
        assert samples.failures(run, sample.path, "--against", sample.dump, "--backend", "numba") == []

    def test_a_device_that_is_not_here(self, tmp_path, run):
        """Another backend is named that can do the work, and it can."""
        sample = samples.write_sample(tmp_path, 2)
        tensors, document = samples.parts(sample.path)
        samples.put_together(sample.path, tensors, document | {"backend": "torch", "device": "meteor:1"})
        code, _, err = run("verify", sample.path, "--against", sample.dump)
        assert (code, err.count("\n")) == (1, 1)
        assert f"{sample.path} was computed there, but --backend numba can check it, too" in err
        assert samples.failures(run, sample.path, "--against", sample.dump, "--backend", "numba") == []

    def test_options_of_work_that_is_not_done(self, tmp_path, run):
        sample = samples.write_sample(tmp_path, 2)
        for option in (["--backend", "numpy"], ["--threads", "1"], ["--memory", "1GiB"], ["--device", "cpu"]):
            code, _, err = run("verify", sample.path, *option)
            assert code == 2
            assert "nothing is computed without --against; name the source, or leave these options out" in err

    def test_too_little_memory_is_said(self, tmp_path, run, monkeypatch):
        sample = samples.write_sample(tmp_path, 600)
        code, _, err = run("verify", sample.path, "--against", sample.dump, "--memory", "1MiB")
        assert code == 1
        assert "a.up: checking 600 experts of 5 neurons and 11 inputs takes 2 MiB or more, and 1 are allowed" in err

    @pytest.mark.parametrize("command", ["score", "prune"])
    def test_other_commands_take_no_experts(self, tmp_path, run, command):
        sample = samples.write_sample(tmp_path)
        for source in (sample.path, tmp_path):
            code, out, err = run(command, source)
            assert (code, out) == (1, "")
            assert err == (
                f"wncore: error: {sample.path} holds sparse experts, no inputs or outputs; `wncore inspect` says more "
                f"of it, `wncore verify` checks it\n"
            )

    def test_inspect_says_what_the_file_holds(self, tmp_path, run):
        sample = samples.write_sample(tmp_path, packed=True)
        code, out, err = run("inspect", sample.path)
        assert (code, err) == (0, "")
        assert "sparse experts of 2 layers, packed" in out
        document = json.loads(run("inspect", "--json", "--layer", "*.gate", sample.path)[1])
        (layer,) = document["experts"]
        assert (layer["name"], layer["router"], layer["shape"], layer["dtype"]) == ("a.gate", "a.up", [4, 11], "F32")
        assert (layer["experts"], layer["zeros"]) == (3, 0.5)
        assert (layer["dense_bytes"], layer["packed_bytes"]) == (4 * 132, 3 * 4 * 2 + 4 * 66)
        tensors = rawfile.read(sample.path)[0]
        assert layer["packed_bytes"] == sum(len(tensors[f"a.gate.experts.{part}"][2]) for part in ("mask", "values"))


class TestLibrary:
    """Findings are data."""

    def test_a_file_that_was_saved_bare_says_little_and_is_sound(self, tmp_path):
        samples.experts().save(tmp_path / "e.safetensors")
        checks = verify_file(load_experts(tmp_path / "e.safetensors"))
        assert [check.passed for check in checks] == [True, True, True, True, None, True]

    def test_values_that_cannot_be_read_are_a_finding(self, tmp_path):
        sample = samples.write_sample(tmp_path, packed=True)
        tensors, document = samples.parts(sample.path)
        dtype, shape, content = tensors["a.up.experts.mask"]
        samples.put_together(
            sample.path, tensors | {"a.up.experts.mask": (dtype, shape, bytes(len(content)))}, document
        )
        file = load_experts(sample.path)
        (check,) = (check for check in verify_file(file) if check.passed is False)
        assert check.finding.endswith("keeps 0 weights, and 84 values are stored; copy or write the file again")
        found = verify_against(file, open_dump(sample.dump), NumbaBackend(threads=2))
        assert [(check.layer, check.name) for check in found.checks if not check.passed] == [("a.up", "source")]

    def test_a_document_may_leave_numbers_out(self, tmp_path):
        sample = samples.write_sample(tmp_path)
        document = {key: value for key, value in sample.document.items() if key not in ("inputs", "memory")}
        document["layers"] = [
            {key: value for key, value in layer.items() if not key.startswith("relative")}
            for layer in document["layers"]
        ]
        save_experts(sample.path, sample.layers, document, force=True)
        found = verify_against(load_experts(sample.path), open_dump(sample.dump), NumbaBackend(threads=2))
        assert [check.passed for check in found.checks if check.layer == "a.up"][-5:] == [True, None, None, None, None]
