"""A dump in several files: in a folder, by an index, or named one by one."""

import json
from pathlib import Path

import numpy as np
import pytest
from dump_samples import B, W, X, Y, only, refused
from rawfile import write

from wncore.dumps import open_dump


class TestSeveralFiles:
    """Files, a sharded set or a folder are one dump."""

    def pieces(self, folder: Path, names: list[str], **more) -> list[Path]:
        """Write Y in as many pieces as there are names."""
        parts = np.array_split(Y, len(names))
        return [write(folder / name, {"fc.output": part, **more}) for name, part in zip(names, parts, strict=True)]

    def test_pieces_of_an_output_are_joined_in_the_order_of_the_files(self, tmp_path):
        a, b, c = self.pieces(tmp_path, ["z.safetensors", "y.safetensors", "x.safetensors"])
        np.testing.assert_array_equal(only(open_dump(a, b, c)).output.read(), Y)

    def test_every_piece_starts_a_sequence(self, tmp_path):
        a, b = self.pieces(tmp_path, ["a.safetensors", "b.safetensors"])
        assert only(open_dump(a, b, length=2)).tokens().sequence.tolist() == [0, 0, 1, 2, 2, 3]

    def test_the_files_of_a_folder_are_ordered_by_their_numbers(self, tmp_path):
        self.pieces(tmp_path, [f"part-{i}.safetensors" for i in (1, 2, 10)])
        np.testing.assert_array_equal(only(open_dump(tmp_path)).output.read(), Y)

    def test_a_folder_is_read_without_what_is_hidden_or_no_safetensors(self, tmp_path):
        self.pieces(tmp_path, ["a.safetensors"])
        for name in (".b.safetensors", ".a.safetensors.x.partial", "notes.txt"):
            (tmp_path / name).write_text("no tensors")
        assert open_dump(tmp_path).files == (tmp_path / "a.safetensors",)

    def test_pieces_of_different_types_are_refused(self, tmp_path):
        a = write(tmp_path / "a.safetensors", {"fc.output": Y})
        b = write(tmp_path / "b.safetensors", {"fc.output": Y.astype(np.float32)})
        refused(
            a, b, says=r"fc.output is F64 \(6, 2\) in .* and F32 \(6, 2\) in .*; pieces must have one type and width"
        )

    def test_an_equal_weight_in_two_files_is_one_weight(self, tmp_path):
        a, b = self.pieces(tmp_path, ["a.safetensors", "b.safetensors"], **{"fc.weight": W, "fc.bias": B})
        layer = only(open_dump(a, b))
        np.testing.assert_array_equal(layer.weight.read(), W)
        assert layer.bias.rows == 2

    @pytest.mark.parametrize("other", [W + 1e-9, W[:1], -W])
    def test_a_weight_that_differs_between_files_is_refused(self, tmp_path, other):
        a = write(tmp_path / "a.safetensors", {"fc.weight": W, "fc.input": X})
        b = write(tmp_path / "b.safetensors", {"fc.weight": other, "fc.input": X})
        refused(a, b, says="fc.weight differs between .*a.safetensors and .*b.safetensors; keep the right one")

    def test_every_file_may_have_its_own_mask(self, tmp_path):
        a = write(tmp_path / "a.safetensors", {"fc.output": Y[:4], "tokens.mask": np.array([1, 1, 0, 0], bool)})
        b = write(tmp_path / "b.safetensors", {"fc.output": Y[4:], "tokens.mask": np.array([0, 1], bool)})
        assert only(open_dump(a, b)).tokens().keep.tolist() == [True, True, False, False, False, True]
        assert only(open_dump(b, a)).tokens().keep.tolist() == [False, True, True, True, False, False]

    def test_own_masks_must_fit_file_by_file(self, tmp_path):
        a = write(tmp_path / "a.safetensors", {"fc.output": Y[:4], "tokens.mask": np.ones(2, bool)})
        b = write(tmp_path / "b.safetensors", {"fc.output": Y[4:], "tokens.mask": np.ones(4, bool)})
        refused(a, b, says="tokens.mask in .*a.safetensors has 2 positions for the 4 tokens of fc.output; write one")

    def test_one_mask_may_serve_the_whole_set(self, tmp_path):
        a, b = self.pieces(tmp_path, ["a.safetensors", "b.safetensors"])
        mask = write(tmp_path / "m.safetensors", {"tokens.mask": np.array([1, 0, 1, 1, 1, 0], bool)})
        assert only(open_dump(a, b, mask)).tokens().keep.tolist() == [True, False, True, True, True, False]

    def test_one_mask_must_be_as_long_as_the_set(self, tmp_path):
        a, b = self.pieces(tmp_path, ["a.safetensors", "b.safetensors"])
        mask = write(tmp_path / "m.safetensors", {"tokens.mask": np.ones(5, bool)})
        refused(a, b, mask, says="tokens.mask has 5 positions for the 6 tokens of fc.output")

    def test_layers_may_lie_in_different_files(self, tmp_path):
        a = write(tmp_path / "a.safetensors", {"fc.input": X})
        b = write(tmp_path / "b.safetensors", {"fc.weight": W, "other.output": Y})
        dump = open_dump(a, b)
        assert list(dump.layers) == ["fc", "other"]
        assert dump.layers["fc"].scorable

    def test_the_same_file_twice_is_refused(self, tmp_path):
        (a,) = self.pieces(tmp_path, ["a.safetensors"])
        link = tmp_path / "link.safetensors"
        link.symlink_to(a)
        for again in (a, tmp_path / "." / "a.safetensors", link, tmp_path):
            refused(a, again, says="was named twice and its tokens would count double")

    def test_files_of_different_runs_are_refused(self, tmp_path):
        a = write(tmp_path / "a.safetensors", {"fc.output": Y}, model="one")
        b = write(tmp_path / "b.safetensors", {"fc.output": Y}, model="two")
        refused(a, b, says="b.safetensors says wncore.model = 'two', another file of the dump 'one'")

    def test_another_schema_is_refused(self, tmp_path):
        path = write(tmp_path / "a.safetensors", {"fc.output": Y}, schema="2")
        refused(path, says="has schema '2'; this version reads 1, install a newer wncore")

    @pytest.mark.parametrize("name", ["gone", "a\0b", "n" * 5000])
    def test_a_name_that_no_file_has_is_refused(self, tmp_path, name):
        refused(tmp_path / name, says="there is no file|cannot be read: File name too long")

    def test_no_source_at_all_is_refused(self):
        refused(says="no dump was named")


WHERE = {"fc.weight": "a-1.safetensors", "fc.output": ["a-1.safetensors", "a-2.safetensors"]}


class TestIndex:
    """A sharded set by its index, as Hugging Face writes it, or with several files for a tensor."""

    def index(self, folder: Path, content) -> Path:
        path = folder / "dump.safetensors.index.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def shards(self, folder: Path) -> None:
        write(folder / "a-1.safetensors", {"fc.output": Y[:4], "fc.weight": W})
        write(folder / "a-2.safetensors", {"fc.output": Y[4:]})
        write(folder / "stray.safetensors", {"fc.output": Y})

    def test_the_index_or_its_folder_name_the_set(self, tmp_path):
        self.shards(tmp_path)
        index = self.index(tmp_path, {"metadata": {"total_size": 1.5e3}, "weight_map": WHERE})
        for source in (index, tmp_path):
            dump = open_dump(source)
            assert [path.name for path in dump.files] == ["a-1.safetensors", "a-2.safetensors"]
            np.testing.assert_array_equal(only(dump).output.read(), Y)

    @pytest.mark.parametrize(
        ("where", "says"),
        [
            ({"fc.output": "gone.safetensors"}, "names gone.safetensors, which is missing; copy it beside the index"),
            ({"fc.output": "../a-1.safetensors"}, "a shard lies beside its index, with no folder in its name"),
            ({"fc.output": "/etc/passwd"}, "a shard lies beside its index"),
            ({"fc.output": "..\\a"}, "a shard lies beside its index"),
            ({"fc.output": ".."}, "a shard lies beside its index"),
            ({"fc.output": ""}, "a shard lies beside its index"),
            ({"fc.output": "a\0b"}, "a shard lies beside its index"),
            ({"fc.output": 3}, "a shard lies beside its index"),
            ({"fc.output": [["a-1.safetensors"]]}, "a shard lies beside its index"),
            ({"fc.output": None}, "a shard lies beside its index"),
            ({"fc.output": "n" * 5000}, "which is missing"),
            ({"fc.output": []}, "must list the files of fc.output once, in the order of their numbers"),
            ({"fc.output": ["a-2.safetensors", "a-1.safetensors"]}, "in the order of their numbers"),
            ({"fc.output": ["a-1.safetensors", "a-1.safetensors"]}, "must list the files of fc.output once"),
            ({"fc.bias": "a-1.safetensors"}, "a-1.safetensors lacks fc.bias, which its index says it holds"),
            ({"fc.weight": ["a-1.safetensors", "a-2.safetensors"]}, "a-2.safetensors lacks fc.weight"),
            ({}, "needs an object 'weight_map'"),
            ([], "needs an object 'weight_map'"),
        ],
    )
    def test_an_index_that_misleads_is_refused(self, tmp_path, where, says):
        self.shards(tmp_path)
        refused(self.index(tmp_path, {"weight_map": where}), says=says)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", "3", "{}", '{"weight_map": {"a": "b", "a": "c"}}', "[" * 100_000]
    )
    def test_an_index_that_is_none_is_refused(self, tmp_path, text):
        refused(self.index(tmp_path, text), says="is not sound JSON|is no index of shards")

    def test_two_indexes_in_a_folder_are_refused(self, tmp_path):
        self.shards(tmp_path)
        self.index(tmp_path, {"weight_map": WHERE}).rename(tmp_path / "b.safetensors.index.json")
        self.index(tmp_path, {"weight_map": WHERE})
        refused(tmp_path, says="holds 2 indexes; name one: b.safetensors.index.json, dump.safetensors.index.json")

    def test_an_empty_folder_is_refused(self, tmp_path):
        refused(tmp_path, says="holds no .safetensors file")
