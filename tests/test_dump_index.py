"""The index of a sharded set is a map: what it does not assign to a file is not read from that file."""

import json
from pathlib import Path

import numpy as np
import pytest
from dump_samples import B, W, X, Y, only, refused
from rawfile import write

from wncore.dumps import open_dump

OLD = 5 * Y**3 + 3


def index(folder: Path, where, name: str = "a.safetensors.index.json") -> Path:
    """Write an index."""
    path = folder / name
    path.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return path


def test_a_stale_copy_in_another_shard_is_not_joined(tmp_path):
    write(tmp_path / "a-1.safetensors", {"l.output": OLD, "m.output": Y})
    write(tmp_path / "a-2.safetensors", {"l.output": Y})
    path = index(tmp_path, {"m.output": "a-1.safetensors", "l.output": "a-2.safetensors"})
    for source in (path, tmp_path):
        dump = open_dump(source)
        assert list(dump.layers) == ["l", "m"]
        np.testing.assert_array_equal(dump.layers["l"].output.read(), Y)
        (note,) = dump.notes
        assert note == (
            "l.output in a-1.safetensors is passed over: a.safetensors.index.json says that it is in a-2.safetensors"
        )


@pytest.mark.parametrize(
    "stale",
    [{"fc.weight": -W}, {"fc.weight": W.T}, {"fc.weight": np.ones((2, 3), np.int8)}, {"fc.bias": B + 1},
     {"fc.input": X.astype(np.float32)}, {"fc.inputs": X}, {"tokens.mask": np.ones(3, bool)},
     {"tokens.mask": np.ones(6, np.int64)}],
    ids=lambda stale: " ".join(f"{name} {array.dtype}" for name, array in stale.items()),
)  # fmt: skip
def test_a_stale_copy_is_no_contradiction(tmp_path, stale):
    """Of another value, shape or type, or a mask: it is as if it were not there."""
    write(tmp_path / "a-1.safetensors", {"other.output": Y, **stale})
    sound = {"fc.weight": W, "fc.input": X, "fc.bias": B, "tokens.mask": np.arange(6) > 0}
    write(tmp_path / "a-2.safetensors", sound)
    dump = open_dump(index(tmp_path, dict.fromkeys(sound, "a-2.safetensors") | {"other.output": "a-1.safetensors"}))
    layer = dump.layers["fc"]
    layer.check()
    assert layer.weight.read().tobytes() == W.tobytes()
    assert layer.input.read().tobytes() == X.tobytes()
    assert layer.tokens().keep.tolist() == [False] + [True] * 5
    (note,) = dump.notes
    assert note.startswith(f"{next(iter(stale))} in a-1.safetensors is passed over: ")


def test_a_tensor_that_the_index_does_not_name_is_passed_over(tmp_path):
    write(tmp_path / "a-1.safetensors", {"l.output": Y, "left.over": OLD, "tokens.mask": np.zeros(6, bool)})
    dump = open_dump(index(tmp_path, {"l.output": "a-1.safetensors"}))
    assert only(dump).tokens().count == 6
    assert sorted(dump.notes) == [
        f"{name} in a-1.safetensors is passed over: a.safetensors.index.json does not name it"
        for name in ("left.over", "tokens.mask")
    ]


def test_a_list_of_files_is_joined_without_the_others(tmp_path):
    for i, part in enumerate([OLD[:1], Y[:2], Y[2:]]):
        write(tmp_path / f"a-{i}.safetensors", {"l.output": part, f"m{i}.output": Y})
    where = {f"m{i}.output": f"a-{i}.safetensors" for i in range(3)}
    dump = open_dump(index(tmp_path, where | {"l.output": ["a-1.safetensors", "a-2.safetensors"]}))
    np.testing.assert_array_equal(dump.layers["l"].output.read(), Y)
    assert "says that it is in a-1.safetensors, a-2.safetensors" in dump.notes[0]


def test_files_beside_the_index_are_named(tmp_path):
    for name in ("a-1", "a-10", "a-2", ".hidden", "b"):
        write(tmp_path / f"{name}.safetensors", {"l.output": Y})
    path = index(tmp_path, {"l.output": "a-1.safetensors"})
    (note,) = open_dump(path).notes
    assert note == (
        "a-2.safetensors, a-10.safetensors, b.safetensors beside a.safetensors.index.json are passed over: it does not "
        "name them"
    )
    (note,) = open_dump(path, *(tmp_path / f"a-{i}.safetensors" for i in (2, 10))).notes  # who names them knows them
    assert note == "b.safetensors beside a.safetensors.index.json is passed over: it does not name it"


def test_many_files_beside_the_index_are_counted(tmp_path):
    for i in range(25):
        write(tmp_path / f"a-{i}.safetensors", {"l.output": Y})
    (note,) = open_dump(index(tmp_path, {"l.output": "a-0.safetensors"})).notes
    assert "a-10.safetensors and 14 more beside" in note


def test_two_indexes_of_one_folder_do_not_complain_of_each_other(tmp_path):
    write(tmp_path / "a.safetensors", {"l.output": Y})
    write(tmp_path / "b.safetensors", {"m.output": Y})
    paths = [index(tmp_path, {f"{layer}.output": f"{name}.safetensors"}, f"{name}.safetensors.index.json")
             for layer, name in (("l", "a"), ("m", "b"))]  # fmt: skip
    dump = open_dump(*paths)
    assert (list(dump.layers), dump.notes) == (["l", "m"], ())


@pytest.mark.parametrize("name", ["a.safetensors.index.fp16.json", "A.SAFETENSORS.INDEX.JSON"])
def test_the_index_of_a_variant_is_an_index(tmp_path, name):
    write(tmp_path / "a.fp16-1.safetensors", {"l.output": Y, "m.output": OLD})
    path = index(tmp_path, {"l.output": "a.fp16-1.safetensors"}, name)
    for source in (path, tmp_path):
        assert list(open_dump(source).layers) == ["l"]


@pytest.mark.parametrize("content", [{"metadata": {"total_size": 1}}, {"metadata": {}, "weight_map": {}}])
def test_an_index_of_metadata_only_is_refused(tmp_path, content):
    write(tmp_path / "a-1.safetensors", {"l.output": Y})
    path = index(tmp_path, {})
    path.write_text(json.dumps(content))
    refused(path, says="is no index of shards; it needs an object 'weight_map' that names files")


def test_what_is_in_no_other_file_than_the_index_says_is_missed(tmp_path):
    """Nothing is taken from elsewhere because its own file lacks it."""
    write(tmp_path / "a-1.safetensors", {"l.output": Y, "m.output": Y})
    write(tmp_path / "a-2.safetensors", {"n.output": Y})
    where = {"l.output": "a-2.safetensors", "m.output": "a-1.safetensors", "n.output": "a-2.safetensors"}
    refused(index(tmp_path, where), says=r"a-2\.safetensors lacks l\.output, which its index says it holds")


def test_the_command_scores_each_token_once(run, tmp_path):
    write(tmp_path / "a-1.safetensors", {"l.output": OLD, "m.output": Y})
    write(tmp_path / "a-2.safetensors", {"l.output": Y})
    path = index(tmp_path, {"m.output": "a-1.safetensors", "l.output": "a-2.safetensors"})
    code, out, err = run("score", path, "--json", "--backend", "numpy")
    assert code == 0
    assert [layer["tokens"] for layer in json.loads(out)["layers"]] == [6, 6]
    assert "note: l.output in a-1.safetensors is passed over" in err
