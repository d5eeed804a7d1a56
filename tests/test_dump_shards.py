"""A dump in several files of bounded size."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rawfile
from dump_samples import names_in
from hypothesis import given
from hypothesis import strategies as st

from wncore.dumps import open_dump, write_dump
from wncore.errors import InputError, OutputExistsError, WncoreError

Y = np.random.default_rng(0).standard_normal((12, 5))


class TestShards:
    """A dump in several files of bounded size."""

    TENSORS = {  # noqa: RUF012
        "fc.input": np.arange(40 * 6, dtype=np.float32).reshape(40, 6),
        "fc.output": np.arange(40 * 3, dtype=np.float64).reshape(40, 3),
        "fc.weight": np.ones((3, 6), np.float32),
        "blocks.0.hook_pre": np.arange(10 * 4 * 2, dtype=np.float16).reshape(10, 4, 2),
        "tokens.mask": (np.arange(40) % 5 > 0),
    }

    def data_bytes(self, path: Path) -> int:
        return sum(len(content) for _, _, content in rawfile.read(path)[0].values())

    @given(size=st.integers(240, 3000), length=st.sampled_from([1, 2, 4, 5, 10]))
    def test_no_shard_is_larger_than_asked_and_the_dump_is_the_same(self, size, length, tmp_path_factory):
        folder = tmp_path_factory.mktemp("shards") / "dump"
        *shards, index = write_dump(folder, self.TENSORS, sequence_length=length, shard_bytes=size)
        assert names_in(folder) == sorted(path.name for path in [*shards, index])
        assert all(self.data_bytes(path) <= size for path in shards)
        dump = open_dump(folder)
        assert dump.files == tuple(shards)
        fc, hook = dump.layers["fc"], dump.layers["blocks.0.hook_pre"]
        for part in ("input", "output", "weight"):
            assert getattr(fc, part).read().tobytes() == self.TENSORS[f"fc.{part}"].tobytes()
        assert hook.output.read().tobytes() == self.TENSORS["blocks.0.hook_pre"].tobytes()
        tokens = fc.tokens()
        assert tokens.keep.tolist() == self.TENSORS["tokens.mask"].tolist()
        assert tokens.sequence.tolist() == (np.arange(40) // length)[self.TENSORS["tokens.mask"]].tolist()

    @pytest.mark.parametrize("name", ["input", "fc.inputs", "fc.output", "blocks.0.hook_pre"])
    def test_whatever_holds_tokens_is_cut_between_sequences(self, tmp_path, name):
        *shards, _ = write_dump(tmp_path / "dump", {name: Y}, sequence_length=3, shard_bytes=7 * Y[0].nbytes)
        assert [rawfile.read(path)[0][name][1][0] for path in shards] == [6, 6]

    def test_the_last_sequence_may_be_shorter(self, tmp_path):
        *shards, _ = write_dump(
            tmp_path / "dump", {"fc.output": Y[:11]}, sequence_length=3, shard_bytes=3 * Y[0].nbytes
        )
        assert [rawfile.read(path)[0]["fc.output"][1][0] for path in shards] == [3, 3, 3, 2]

    def test_the_index_names_the_files_of_each_tensor(self, tmp_path):
        *shards, index = write_dump(tmp_path / "dump", {"a.output": Y, "b.output": Y[:2]}, shard_bytes=Y.nbytes // 2)
        content = json.loads(index.read_text())
        assert content["weight_map"] == {"a.output": [shards[0].name, shards[1].name], "b.output": [shards[2].name]}
        assert content["metadata"]["total_size"] == Y.nbytes + Y[:2].nbytes

    @pytest.mark.parametrize(
        ("tensors", "says"),
        [
            ({"fc.output": Y}, "fc.output does not fit into shards of 100 bytes; it needs 160 at least"),
            ({"fc.weight": Y}, "fc.weight does not fit into shards of 100 bytes; it needs 480 at least"),
            ({"tokens.mask": np.ones(101, bool)}, "tokens.mask does not fit into shards of 100 bytes; it needs 101"),
        ],
    )
    def test_what_cannot_be_cut_small_enough_is_refused(self, tmp_path, tensors, says):
        with pytest.raises(InputError, match=says):
            write_dump(tmp_path / "dump", tensors, sequence_length=4, shard_bytes=100)

    def test_a_set_that_exists_is_refused_without_force(self, tmp_path):
        write_dump(tmp_path / "dump", {"fc.output": Y}, shard_bytes=Y.nbytes)
        with pytest.raises(OutputExistsError):
            write_dump(tmp_path / "dump", {"fc.output": -Y}, shard_bytes=Y.nbytes)
        write_dump(tmp_path / "dump", {"fc.output": -Y}, shard_bytes=Y.nbytes, force=True)
        np.testing.assert_array_equal(open_dump(tmp_path / "dump").layers["fc"].output.read(), -Y)

    @pytest.mark.parametrize("failing", range(3))
    def test_a_failure_at_any_shard_leaves_the_old_set(self, tmp_path, monkeypatch, failing):
        write_dump(tmp_path / "dump", {"fc.output": Y}, shard_bytes=Y.nbytes // 3)
        before, flush, count = names_in(tmp_path / "dump"), os.fsync, iter(range(9))

        def fail(handle):
            if next(count) == failing:
                raise OSError(28, "No space left on device")
            flush(handle)

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(
            WncoreError, match=rf"dump-0000{failing + 1}-of-00003\.safetensors could not be written: No space"
        ):
            write_dump(tmp_path / "dump", {"fc.output": -Y}, shard_bytes=Y.nbytes // 3, force=True)
        assert names_in(tmp_path / "dump") == before
        np.testing.assert_array_equal(open_dump(tmp_path / "dump").layers["fc"].output.read(), Y)
