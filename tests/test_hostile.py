"""Hostile dumps: a right answer or one line of error, never a traceback, a hang, or a wrong number."""

import json
from pathlib import Path

import hostile
import judge
import numpy as np
import pytest
import rawfile


class TestDamage:
    """Thousands of damaged files."""

    @pytest.mark.parametrize("group", hostile.GROUPS, ids=lambda group: group.__name__)
    def test_it_ends_in_a_right_answer_or_one_line_of_error(self, group, tmp_path, capsys):
        path, found = tmp_path / "dump.safetensors", []
        for label, content in group():
            path.write_bytes(content)
            wrong = judge.problem(capsys, path)
            if wrong:
                found.append(f"{label}: {wrong}")
        assert not found, f"{len(found)} faults\n" + "\n".join(found[:20])

    def test_there_are_three_thousand_cases(self):
        assert sum(len(list(group())) for group in hostile.GROUPS) >= 3000

    def test_the_sound_dump_is_scored(self, tmp_path, capsys):
        dump = hostile.write_sound(tmp_path)
        assert judge.problem(capsys, dump) is None
        layers = judge.scores(capsys, dump)
        assert layers is not None
        assert [layer["name"] for layer in layers] == ["fc", "h.0.hook"]

    def test_the_judge_rejects_wrong_scores(self, tmp_path, capsys):
        dump = hostile.write_sound(tmp_path)
        code, out, _ = judge.run(capsys, "score", "--json", "--backend", "numpy", dump)
        assert code == 0
        document = json.loads(out)
        document["layers"][0]["wasserstein_low"][2] += 1e-3
        assert "has distances" in str(judge.wrong_scores(json.dumps(document), (dump,)))


class TestNonFinite:
    """NaN and infinity are counted, and the first is named, unless padding hides them."""

    @pytest.mark.parametrize("name", ["fc.input", "fc.weight", "fc.bias", "h.0.hook"])
    @pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
    def test_the_message_names_the_tensor_the_count_and_the_first(self, tmp_path, name, value, capsys):
        tensors = hostile.tensors() | {"tokens.mask": np.ones(24, bool)}
        flat = tensors[name].reshape(-1, tensors[name].shape[-1]) if tensors[name].ndim > 1 else tensors[name][:, None]
        places = [(flat.shape[0] - 3, 0), (flat.shape[0] - 2, flat.shape[1] - 1), (flat.shape[0] - 1, 0)]
        for place in places:
            flat[place] = value
        path = rawfile.write(tmp_path / "dump.safetensors", tensors)
        line = judge.refusal(capsys, path)
        assert f"{name} holds NaN or infinity: 3 of its {flat.size} values" in line
        row, column = places[0]
        assert (f" neuron {row}; " if name == "fc.bias" else f" {row}, channel {column}; ") in line

    @pytest.mark.parametrize("dtype", [dtype for name, dtype in judge.DTYPES.items() if name not in ("BOOL", "U8")])
    def test_they_are_found_in_every_dtype(self, tmp_path, dtype, capsys):
        y = np.random.default_rng(0).standard_normal((24, 3)).astype(dtype)
        y[5, 1] = np.nan
        path = rawfile.write(tmp_path / "dump.safetensors", {"fc.output": y})
        assert "fc.output holds NaN or infinity: 1 of its 72 values, the first at token 5, channel 1" in judge.refusal(
            capsys, path
        )

    @pytest.mark.parametrize("pattern", [0x7C01, 0xFC01, 0x7E00, 0x7FFF], ids=hex)
    def test_a_nan_that_signals_is_one_like_any_other(self, tmp_path, pattern, capsys):
        y = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float16)
        y.view(np.uint16)[7, 2] = pattern
        assert "token 7, channel 2" in judge.refusal(
            capsys, rawfile.write(tmp_path / "dump.safetensors", {"fc.output": y})
        )

    def test_padding_may_hold_them(self, tmp_path, capsys):
        tensors = hostile.tensors()
        for name in ("fc.input", "h.0.hook"):
            tensors[name].reshape(24, -1)[~tensors["tokens.mask"]] = np.nan
        path = rawfile.write(tmp_path / "dump.safetensors", tensors)
        assert judge.problem(capsys, path) is None
        assert judge.scores(capsys, path) is not None


class TestIndexes:
    """The index of a sharded set is damaged."""

    @pytest.fixture
    def index(self, tmp_path) -> Path:
        tensors = hostile.tensors()
        second = {name: tensors.pop(name) for name in ("fc.bias", "h.0.hook")}
        where = {}
        for name, held in (("a-1.safetensors", tensors), ("a-2.safetensors", second)):
            rawfile.write(tmp_path / name, held)
            where |= dict.fromkeys(held, name)
        path = tmp_path / "a.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {"total_size": 1000}, "weight_map": where}))
        return path

    def test_it_ends_in_the_right_answer_or_one_line_of_error(self, index, capsys):
        sound, found, answers = judge.scores(capsys, index), [], 0
        assert sound is not None
        for label, content in hostile.text_damage(index.read_bytes(), 300):
            index.write_bytes(content)
            wrong = judge.problem(capsys, index, names=str(index.parent))
            answer = judge.scores(capsys, index)
            answers += answer is not None
            if wrong or answer not in (sound, None):
                found.append(f"{label}: {wrong or 'other scores'}")
        assert not found, f"{len(found)} faults\n" + "\n".join(found[:20])
        assert 0 < answers < 300
