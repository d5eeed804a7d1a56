"""The header of a dump: what is wrong with it is said, with the tensor's name and the file's."""

import json
import os

import numpy as np
import pytest
from dump_samples import Y, refused
from rawfile import layout, pack, write

from wncore.dumps.header import read_header
from wncore.errors import DumpError

A = {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}
B = {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]}
SIZE = 64


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a": A, "b": {**B, "data_offsets": [28, 60]}}, "is damaged: a and b overlap; write it again"),
        ({"a": A, "b": A}, "is damaged: a and b overlap"),
        ({"a": A, "b": {**B, "data_offsets": [36, 68]}}, "is damaged: a and b leave a gap; write it again"),
        ({"b": B}, "is damaged: the header and b leave a gap"),
        ({"a": A}, r"is damaged: 32 bytes follow a; copy or write it again"),
        ({}, "is damaged: 64 bytes follow the header"),
        (
            {"a": A, "b": {**B, "shape": [5, 2], "data_offsets": [32, 72]}},
            r"is truncated: b ends at byte \d+ of \d+; copy",
        ),
        ({"a": {**A, "shape": [5, 2]}, "b": B}, r"a is F32 \[5, 2\] and has 32 bytes, from 0 to 32; write it again"),
        ({"a": {**A, "data_offsets": [32, 0]}, "b": B}, "a is F32 .* and has -32 bytes, from 32 to 0"),
        ({"a": {**A, "shape": [2**62, 2**62]}, "b": B}, "a is F32 .* and has 32 bytes"),
        ({"a": {**A, "dtype": "I4"}, "b": B}, "a has the type 'I4'; known are F64 F32 F16 BF16 .*; write it again"),
        ({"a": {**A, "dtype": None}, "b": B}, "a has the type 'None'; known are"),
        ({"a": {**A, "shape": [4, -2]}, "b": B}, "a has a shape that is no list of sizes"),
        ({"a": {**A, "shape": [1] * 65}, "b": B}, "a is F32 of 65 axes and has 32 bytes"),
        ({"a": {**A, "data_offsets": [0.0, 32]}, "b": B}, "a has data_offsets that are not two positions"),
        ({"a": {**A, "data_offsets": [32]}, "b": B}, "a has data_offsets that are not two positions"),
        ({"a": ["F32", [4, 2]], "b": B}, "a needs dtype, shape, data_offsets; write it again"),
        ({"a": {"dtype": "F32", "shape": [4, 2]}, "b": B}, "a needs dtype, shape, data_offsets"),
        (
            {"__metadata__": {"key": 1}, "a": A, "b": B},
            "has metadata that is not text; write it again, every value a string",
        ),
        ({"__metadata__": {"key": None}, "a": A, "b": B}, "has metadata that is not text"),
        ([A, B], "has a header that is no JSON object; write it again"),
        (json.dumps({"a": A, "b": B})[:-1], "has a header that is not sound JSON: .*; write it again"),
        ('{"a": 1, "a": 1}', "not sound JSON: 'a' stands twice in one object"),
        ('{"a": NaN}', "not sound JSON: NaN is no JSON"),
        ('{"a": 1e999}', "not sound JSON: 1e999 is too large a number"),
        ('{"\\ud800": 1}', "not sound JSON: .*surrogates not allowed"),
        ("[" * 100_000, "not sound JSON: it is nested too deeply"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, header, says):
    path = tmp_path / "dump.safetensors"
    path.write_bytes(pack(header, bytes(SIZE)))
    refused(path, says=rf"dump\.safetensors .*{says}")


def test_a_header_of_any_length_will_do(tmp_path):
    """Not every writer pads it to a multiple of eight."""
    header, data = layout({"fc.output": Y})
    text = json.dumps(header).encode()
    for spaces in range(9):
        path = tmp_path / "dump.safetensors"
        path.write_bytes(pack(text + b" " * spaces, data))
        assert read_header(path).tensors["fc.output"].shape == Y.shape


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\0" * 7, b"\x10" + b"\0" * 7, b"PK\x03\x05" + bytes(30), b"version 1\n" * 9]
)
def test_what_is_no_safetensors_file_is_told_by_its_size(tmp_path, content):
    path = tmp_path / "dump.safetensors"
    path.write_bytes(content)
    size = len(content)
    refused(
        path, says=rf"is truncated or no safetensors file: it has {size} bytes .* a header of \d+; copy or write it"
    )


def test_a_header_of_100_mb_is_not_read(tmp_path):
    path = tmp_path / "dump.safetensors"
    path.write_bytes(pack(b"", length=10**8))
    os.truncate(path, 2 * 10**8)
    refused(path, says="has a header of 100000000 bytes; more than 33554432 are not read, split the file")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(
        DumpError, match=r"is not a regular file; give a \.safetensors file, an index or a folder of them"
    ):
        read_header(tmp_path)


def test_a_header_of_a_hundred_thousand_tensors_is_read(tmp_path):
    names = [f"model.layers.{i}.mlp.up_proj.output" for i in range(100_000)]
    path = write(tmp_path / "dump.safetensors", {name: ("F8_E5M2", [1, 1], b"\0") for name in names})
    assert list(read_header(path).tensors) == names


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_types_of_less_than_a_byte_take_their_bits(tmp_path, dtype):
    bits = {"F4": 4}.get(dtype, 6)
    path = write(tmp_path / "dump.safetensors", {"fc.output": Y, "packed": (dtype, [4, 2], bytes(bits))})
    assert read_header(path).tensors["packed"].nbytes == bits
    assert np.prod(read_header(path).tensors["packed"].shape) == 8
