"""As liberal as the format: what the safetensors library reads is read here, the same tensors, the same bytes.

Except what may mean two things: names that stand twice.
"""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from dump_samples import B, W, X, Y, only, refused
from hypothesis import example, given
from hypothesis import strategies as st
from rawfile import NAMES, layout, pack, write
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from wncore.dumps import open_dump
from wncore.dumps.header import BITS, DTYPES, read_header
from wncore.dumps.tensor import Tensor
from wncore.errors import DumpError

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(["fc.output", "n" * 3000])
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 8]), max_size=5)
spaces = st.text(" \t\r\n", max_size=9)


def library(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]] | None:
    """Return what the library reads: type, shape and bytes by name; None if it refuses."""
    try:
        found = deserialize(content)
    except SafetensorError:
        return None
    return {name: (one["dtype"], tuple(one["shape"]), bytes(one["data"])) for name, one in found}


def ours(path, content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]] | str:
    """Return what is read here, or why it is not."""
    path.write_bytes(content)
    try:
        header = read_header(path)
    except DumpError as error:
        return str(error)
    found = {}
    for name, entry in header.tensors.items():
        raw = content[entry.offset : entry.offset + entry.nbytes]
        if entry.dtype in DTYPES and entry.shape and raw:
            read = Tensor("output", ((header, entry),)).read()
            assert read.flags.aligned
            assert read.tobytes() == raw
        found[name] = (entry.dtype, entry.shape, raw)
    return found


def compare(path, content: bytes) -> bool:
    """Demand that both read the same, or that we say why not; return whether the library reads it."""
    theirs, mine = library(content), ours(path, content)
    if isinstance(mine, str) and "stands twice" in mine:
        return theirs is not None
    assert mine == theirs if theirs is not None else isinstance(mine, str), mine
    return theirs is not None


@st.composite
def files(draw):
    """Draw a file that the library may read: tensors of any type and shape one after the other, in any order."""
    held = draw(st.dictionaries(names.filter(lambda name: name != "__metadata__"), st.tuples(
        st.sampled_from(sorted(BITS)), shapes), max_size=6), "tensors")  # fmt: skip
    content, data = {}, b""
    for name, (dtype, shape) in held.items():
        bits = int(np.prod(shape, dtype=np.int64)) * BITS[dtype]
        size = bits // 8 if bits % 8 == 0 else 0
        shape = shape if bits % 8 == 0 else [0, *shape]
        fields = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        order = draw(st.permutations(sorted(fields)), "order of the fields")
        content[name] = {field: fields[field] for field in order}
        if draw(st.integers(0, 9), "by position") == 0:
            content[name] = list(fields.values())
        elif draw(st.integers(0, 9), "more fields") == 0:
            content[name]["more"] = [None, {"a": 1.5}]
        data += bytes(draw(st.integers(0, 255), "first byte") + i & 255 for i in range(size))
    items = [(name, content[name]) for name in draw(st.permutations(sorted(content)), "order")]
    metadata = draw(st.sampled_from([None, {}, {"a": "b"}, {"\u00e9": ""}, "absent"]), "metadata")
    if metadata != "absent":
        items.insert(draw(st.integers(0, len(items)), "place of the metadata"), ("__metadata__", metadata))
    text = json.dumps(dict(items), ensure_ascii=draw(st.booleans(), "ascii"), indent=draw(st.sampled_from([None, 1])))
    return pack((draw(spaces, "before") + text + draw(spaces, "behind")).encode(), data)


@given(content=files())
def test_what_may_be_written_is_read(content, tmp_path_factory):
    assert compare(tmp_path_factory.getbasetemp() / "liberal.safetensors", content)


@given(content=files(), data=st.data())
def test_so_it_is_with_what_became_of_it(content, data, tmp_path_factory):
    """Bytes of the header or the end are changed, the library is the judge of what is still sound."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        place = data.draw(st.integers(0, len(changed) - 1), "place")
        byte = data.draw(st.sampled_from(b'{}[]",:0123456789 \n\\uFIBU_n') | st.integers(0, 255), "byte")
        match data.draw(st.sampled_from(["overwritten", "inserted", "deleted"]), "how"):
            case "overwritten":
                changed[place] = byte
            case "inserted":
                changed.insert(place, byte)
            case _ if len(changed) > 1:
                del changed[place]
    if data.draw(st.booleans(), "the length follows") and len(changed) > 8:
        grown = int.from_bytes(content[:8], "little") + len(changed) - len(content)
        changed[:8] = max(0, grown).to_bytes(8, "little")
    compare(tmp_path_factory.getbasetemp() / "changed.safetensors", bytes(changed))


@given(held=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"), st.tuples(st.sampled_from([*NAMES, "uint16", "uint32", "int16"]), shapes),
    max_size=5), metadata=st.none() | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=1, max_size=3))  # fmt: skip
@example(held={"a": ("bool", [3]), "b": ("float64", [2]), "c": ("float64", [0])}, metadata=None)
def test_what_the_library_writes_is_read(held, metadata, tmp_path_factory):
    dtype = {name: getattr(ml_dtypes, name) for name in NAMES if name.startswith(("bfloat", "float8"))}
    arrays = {
        name: np.resize(np.arange(7), shape).astype(dtype.get(kind, kind)) for name, (kind, shape) in held.items()
    }
    try:
        content = save(arrays, metadata)
    except (KeyError, ValueError):  # a type that its writer does not know
        return
    assert compare(tmp_path_factory.getbasetemp() / "written.safetensors", content)
    if metadata:
        assert read_header(tmp_path_factory.getbasetemp() / "written.safetensors").metadata == metadata


A = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [16, 16]}


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": None, "a": A},
        {"a": A, "z": EMPTY},
        {"a": A, "z": {**EMPTY, "data_offsets": [0, 0]}},
        {"a": A, "z": {**EMPTY, "shape": [0, 2**63]}},
        {"a": A, "z": {**EMPTY, "shape": [2**64 - 1, 0]}},
        {"a": {**A, "shape": [1] * 5000 + [4]}},
        {"n" * 100_000: A},
        {"": A},
        {"a": ["F32", [2, 2], [0, 16]]},
        {"a": {**A, "dtype": "C64", "shape": [2]}},
        {"a": {**A, "dtype": "F4", "shape": [32]}},
        {"a": {**A, "dtype": "F8_E8M0", "shape": [16]}},
        json.dumps({"a": A}).replace("dtype", "dty\\u0070e"),
        " \n" + json.dumps({"a": A}) + "\t\r\n ",
    ],
    ids=lambda header: str(header)[:40],
)
def test_oddities_that_the_library_reads(tmp_path, header):
    assert compare(tmp_path / "a.safetensors", pack(header, bytes(range(16))))


@pytest.mark.parametrize(
    "header",
    [
        {"a": A, "z": {**EMPTY, "data_offsets": [8, 8]}},
        {"a": A, "z": {**EMPTY, "shape": [2**63, 2, 0]}},
        {"a": A, "z": {**EMPTY, "shape": [2**64, 0]}},
        {"a": {**A, "shape": [2.0, 2]}},
        {"a": {**A, "dtype": "F4", "shape": [3]}},
        {"a": ["F32", [2, 2]]},
        {"__metadata__": {"a": None}, "a": A},
    ],
    ids=lambda header: str(header)[:40],
)
def test_oddities_that_it_refuses(tmp_path, header):
    assert not compare(tmp_path / "a.safetensors", pack(header, bytes(range(16))))


def test_names_that_stand_twice_are_refused_although_the_library_reads_them(tmp_path):
    path = tmp_path / "a.safetensors"
    one = json.dumps(A)
    path.write_bytes(pack(f'{{"a": {one}, "a": {one}}}', bytes(16)))
    assert library(path.read_bytes()) is not None
    refused(path, says="'a' stands twice in one object")


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("shift", range(1, 9))
def test_values_at_any_place_are_read_right(tmp_path, dtype, shift):
    """A mask of odd length before floats, in whole and in part, by rows and by columns."""
    y = np.random.default_rng(shift).standard_normal((shift, 40)).astype(DTYPES[dtype])
    data = bytes([1] * shift) + y.tobytes()
    header = {
        "tokens.mask": {"dtype": "U8", "shape": [shift], "data_offsets": [0, shift]},
        "l.output": {"dtype": dtype, "shape": list(y.shape), "data_offsets": [shift, len(data)]},
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack(json.dumps(header) + " " * (shift % 5), data))
    output = only(open_dump(path)).output
    for rows in (slice(None), slice(0, 1), slice(shift // 2, shift)):
        for columns in (slice(None), slice(3, 4), slice(7, 40)):
            got = output.read(rows, columns)
            assert got.tobytes() == np.ascontiguousarray(y[rows, columns]).tobytes()
            assert got.flags.aligned


def test_the_scores_of_unaligned_values_are_those_of_aligned_ones(run, tmp_path):
    y = np.random.default_rng(0).standard_normal((65, 7)).astype(np.float32)
    mask = (np.arange(65) % 7 > 0).astype(np.uint8)
    aligned = write(tmp_path / "aligned.safetensors", {"tokens.mask": mask, "l.output": y})
    data = mask.tobytes() + y.tobytes()
    header = {
        "tokens.mask": {"dtype": "U8", "shape": [65], "data_offsets": [0, 65]},
        "l.output": {"dtype": "F32", "shape": [65, 7], "data_offsets": [65, len(data)]},
    }
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes(pack(header, data))
    found = [json.loads(run("score", path, "--json")[1])["layers"] for path in (aligned, odd)]
    assert found[0] == found[1]


def test_an_empty_tensor_spoils_no_other(tmp_path):
    path = write(tmp_path / "a.safetensors", {"expert.output": np.zeros((0, 3)), "fc.output": Y})
    layers = open_dump(path).layers
    np.testing.assert_array_equal(layers["fc"].output.read(), Y)
    layers["fc"].check()


@pytest.mark.parametrize(("name", "shape", "says"), [
    ("n" * 1001, [6, 2], "n{80} in a.safetensors is passed over: its name has 1001 characters, more than 1000"),
    ("odd", [1] * 63 + [6, 2], "odd in a.safetensors is passed over: it has 65 axes, more than 64"),
])  # fmt: skip
def test_what_is_beyond_measure_is_passed_over(tmp_path, name, shape, says):
    path = write(tmp_path / "a.safetensors", {name: ("F64", shape, Y.tobytes()), "fc.output": Y})
    dump = open_dump(path)
    assert only(dump).name == "fc"
    (note,) = dump.notes
    assert re.fullmatch(says, note)


@pytest.mark.parametrize("dtype", sorted(BITS.keys() - DTYPES.keys() | {"F8_E8M0"}))
def test_types_that_are_no_floats_of_a_layer_are_passed_over_or_refused(tmp_path, dtype):
    size = 8 * 2 * BITS[dtype] // 8
    odd = (dtype, [8, 2], bytes(size))
    dump = open_dump(write(tmp_path / "a.safetensors", {"odd": odd, "fc.output": Y}))
    assert (only(dump).name, dump.notes) == ("fc", (f"odd is passed over: its type is {dtype}",))
    path = write(tmp_path / "b.safetensors", {"fc.weight": odd, "fc.input": X})
    refused(path, says=rf"fc\.weight in .* has type {dtype}; .*dequantise it first")


def test_a_file_of_everything_is_read(tmp_path):
    tensors = {"fc.input": X, "fc.weight": W, "fc.bias": B, "fc.output": Y, "tokens.mask": np.ones(6, bool)}
    header, data = layout(tensors)
    header["__metadata__"] = None
    (tmp_path / "a.safetensors").write_bytes(pack(header, data))
    layer = only(open_dump(tmp_path / "a.safetensors"))
    assert None not in (layer.input, layer.weight, layer.bias, layer.output, layer.mask)
