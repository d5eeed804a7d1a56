"""Damaged and malicious dumps, made from a sound one. See judge.py for what must become of them."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import rawfile

Case = tuple[str, bytes]


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Return a layer to be computed, with padding, and a foreign one that is stored: 24 tokens, 5 and 3 neurons."""
    rng = np.random.default_rng(seed)
    return {
        "fc.input": rng.standard_normal((24, 4)).astype(np.float16),
        "fc.weight": rng.standard_normal((5, 4)).astype(ml_dtypes.bfloat16),
        "fc.bias": rng.standard_normal(5).astype(np.float32),
        "h.0.hook": rng.standard_normal((4, 6, 3)).astype(np.float32),
        "tokens.mask": rng.random(24) < 0.8,
    }


def sound() -> tuple[dict[str, Any], bytes]:
    """Return header and data of the sound dump."""
    header, data = rawfile.layout(tensors())
    return {"__metadata__": {"wncore.schema": "1", "wncore.sequence_length": "6"}, **header}, data


def write_sound(folder: Path) -> Path:
    """Write the sound dump."""
    path = folder / "dump.safetensors"
    path.write_bytes(rawfile.pack(*sound()))
    return path


def header_flips(count: int = 500) -> Iterator[Case]:
    """Flip one to three bits of the length or the header."""
    content = rawfile.pack(*sound())
    length = len(content) - len(sound()[1])
    yield from _flips(content, range(length), count, random.Random(1))


def data_flips(count: int = 400) -> Iterator[Case]:
    """Flip one to three bits of the values."""
    content = rawfile.pack(*sound())
    yield from _flips(content, range(len(content) - len(sound()[1]), len(content)), count, random.Random(2))


def _flips(content: bytes, where: range, count: int, chance: random.Random) -> Iterator[Case]:
    for _ in range(count):
        changed = bytearray(content)
        bits = [(chance.choice(where), chance.randrange(8)) for _ in range(chance.randint(1, 3))]
        for place, bit in bits:
            changed[place] ^= 1 << bit
        yield f"bits {bits} flipped", bytes(changed)


def header_overwrites(count: int = 500) -> Iterator[Case]:
    """Overwrite, insert or delete a byte of the header; the length follows, so that JSON is reached."""
    header, data = sound()
    for label, text in text_damage(json.dumps(header).encode(), count):
        yield label, rawfile.pack(text, data)


def text_damage(text: bytes, count: int) -> Iterator[Case]:
    """Overwrite, insert or delete one byte of a JSON text."""
    chance = random.Random(3)
    for _ in range(count):
        place, byte = chance.randrange(len(text)), chance.choice(b'{}[]",:0123456789-+eE.\\u/ \t\n\0\x7f\x80\xff')
        way = chance.choice(["overwritten", "inserted", "deleted"])
        middle = b"" if way == "deleted" else bytes([byte])
        yield f"{byte:#x} {way} at {place}", text[:place] + middle + text[place + (way != "inserted") :]


def data_overwrites(count: int = 200) -> Iterator[Case]:
    """Overwrite one to eight bytes of the values by extreme ones."""
    content, chance = rawfile.pack(*sound()), random.Random(4)
    size = len(sound()[1])
    for _ in range(count):
        width, byte = chance.randint(1, 8), chance.choice([0x00, 0x7F, 0x80, 0xFF, 0x7C, 0x01])
        place = len(content) - size + chance.randrange(size - width)
        yield f"{width} x {byte:#x} at {place}", content[:place] + bytes([byte]) * width + content[place + width :]


def truncations() -> Iterator[Case]:
    """Cut the file at every boundary of its structure and beside it, or let something follow."""
    header, data = sound()
    content = rawfile.pack(header, data)
    start = len(content) - len(data)
    bounds = {*range(9), start, len(content)}
    bounds |= {8 + found.start() for found in re.finditer(rb'[{}\[\]",:]', content[8:start])}
    bounds |= {start + offset for name in header if name != "__metadata__" for offset in header[name]["data_offsets"]}
    for bound in sorted({bound + shift for bound in bounds for shift in (-1, 0, 1)} & set(range(len(content)))):
        yield f"cut at {bound} of {len(content)}", content[:bound]
    for extra in (b"\0", b"\0" * 8, content, b"\xff" * 4096):
        yield f"{len(extra)} bytes follow", content + extra


DTYPE_VALUES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "F4",
                "F6_E2M3", "F6_E3M2", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL", "C64", "C128",
                "f32", "F32 ", "float32", "F320", "<f4", "O", "", "\0", "F\ud800", None, 32, 4.0, True, [], ["F32"],
                {}, "F32" * 10_000]  # fmt: skip
SIZES = [0, 1, -1, -24, 5, 23, 25, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 24.0, 1e30, 0.5,
         True, False, None, "24", [], [24], {}]  # fmt: skip
SHAPES = [[], [0], [-1], [1, 1], [24], [24, 4, 1], [4, 24], [2, 2, 2, 2, 2, 3], [96], [-24, -4], [2**32, 2**32],
          [2**63, 2, 0], [0, 2**63], [2**62, 4], [2**64 + 24, 4], [1] * 63 + [96], [1] * 64 + [96], [1] * 5000 + [96],
          [[24, 4]], [[[[]]]], "24, 4", "", None, 96, {}, {"0": 24}, [24, None], [24, "4"], [24.0, 4], [24, 4.5],
          [True, 96]]  # fmt: skip


def entry_edits() -> Iterator[Case]:
    """Give every field of every tensor wrong values of every kind."""
    for name in tensors():
        header, data = sound()
        begin, end = header[name]["data_offsets"]
        first, *rest = header[name]["shape"]
        offsets = [[begin + 1, end + 1], [begin - 1, end], [begin, end - 1], [begin, end + 1], [end, begin], [end, end],
                   [0, 0], [0, len(data)], [0, end - begin], [begin], [begin, end, end], [[begin, end]], [], None, "0",
                   {}, {"begin": begin}, [begin, None], [begin + 2**32, end + 2**32], [-end, -begin]]  # fmt: skip
        offsets += [[size, end] for size in SIZES] + [[begin, size] for size in SIZES]
        shapes = SHAPES + [[size, *rest] for size in SIZES] + [[first, *rest, size] for size in SIZES[:6]]
        for field, values in (("dtype", DTYPE_VALUES), ("shape", shapes), ("data_offsets", offsets)):
            for value in values:
                edited = {**header, name: {**header[name], field: value}}
                yield f"{name}.{field} = {str(value)[:60]}", rawfile.pack(edited, data)
            yield (
                f"{name}.{field} missing",
                rawfile.pack({**header, name: {key: kept for key, kept in header[name].items() if key != field}}, data),
            )
        for value in (None, 3, "F32", [], ["F32", [24, 4], [0, 384]], {}):
            yield f"{name} = {value}", rawfile.pack({**header, name: value}, data)
        yield f"{name} missing", rawfile.pack({key: kept for key, kept in header.items() if key != name}, data)


def data_left_out() -> Iterator[Case]:
    """Leave one tensor out, bytes and all."""
    for name in tensors():
        kept = {key: array for key, array in tensors().items() if key != name}
        yield f"{name} left out", rawfile.pack(*rawfile.layout(kept))


A, B = '{"dtype":"F32","shape":[4,2],"data_offsets":[0,32]}', '{"dtype":"F32","shape":[4,2],"data_offsets":[32,64]}'
AB = f'"fc.output":{A},"b.output":{B}'
DEEP = 100_000


def raw_headers() -> Iterator[Case]:
    """Write headers that no writer of JSON would write."""
    headers = [
        "", " ", "{", "}", "[]", "null", "0", '"', '"x"', "{}", "{" + AB, AB, "[" + AB + "]", "{{" + AB + "}}",
        "{" + AB + ",}", "{," + AB + "}", "{" + AB + "}}", "{" + AB + "} {}", "{" + AB + "}\0", "{" + AB + "}x",
        f'{{"fc.output":{A},"fc.output":{B}}}', f'{{"fc.output":{A},"fc.output":{A}}}',
        f'{{"fc.output":{A},"fc\\u002eoutput":{B}}}', f'{{"fc.output":{A},"b.output":{A}}}',
        '{"fc.output":{"dtype":"F32","dtype":"F32","shape":[4,2],"data_offsets":[0,32]},"b.output":' + B + "}",
        '{"fc.output":{"dtype":"F32","shape":[8,1],"shape":[4,2],"data_offsets":[0,32]},"b.output":' + B + "}",
        '{"fc.output":{"dtype":"F32","shape":[4,2],"data_offsets":[32,64],"data_offsets":[0,32]},"b.output":' + B + "}",
        *[f'{{"fc.output":{A[:-1]},"extra":{extra}}},"b.output":{B}}}' for extra in (
            "1", "NaN", "Infinity", "-Infinity", "1e999", "-0", "1" * 5000, '"\\ud800"', "[" * 100 + "]" * 100, "nan",
            '{"a":1,"a":2}', "'x'", "01", "1.", ".5", "+1", "0x10", "tr", "True", '"\n"', '"\\x41"', '"\\u12"')],
        *[f'{{"fc.output":{A.replace("[4,2]", shape)},"b.output":{B}}}' for shape in (
            "[4,2,]", "[,4,2]", "[4 2]", "[4,-0]", "[NaN,2]", "[4,Infinity]", "[4,2e0]", "[4,2.0]", "[04,2]", "[+4,2]",
            "[4,0x2]", "[" + "4" * 5000 + ",2]", "(4,2)", "[4,2", "4,2]", "[4,true]", "[" * DEEP + "]" * DEEP)],
        "{" + AB.replace("fc", "\ud800") + "}", "{" + AB.replace("fc", "\\ud800") + "}",
        "{" + AB.replace("fc", "\\udc00\\ud800") + "}", "{" + AB.replace("fc", "\\ud835\\udd4f") + "}",
        "{" + AB.replace('"', "'") + "}", "/* x */{" + AB + "}", "{" + AB + "}// x", "\ufeff{" + AB + "}",
        " \t\r\n{" + AB + "}\n\n", "[" * DEEP, "{" * DEEP, '{"a":' * DEEP,
        '{"fc.output":' + "[" * DEEP + "]" * DEEP + "}",
        '{"__metadata__":' + "[" * DEEP + "]" * DEEP + "," + AB + "}", '"' * DEEP, "\\" * DEEP, "," * DEEP, "-" * DEEP,
        "{" + ",".join(f'"{i}":0' for i in range(20_000)) + "}", "{" + '"a":0,' * 20_000 + '"a":0}',
    ]  # fmt: skip
    for header in headers:
        yield f"header {header[:100]!r}", rawfile.pack(header, bytes(range(64)))
    for encoding in ("utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32", "utf-8-sig", "cp037", "utf-7"):
        yield f"header in {encoding}", rawfile.pack(("{" + AB + "}").encode(encoding), bytes(64))
    for junk in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe2\x82"):
        yield f"name with {junk!r}", rawfile.pack(("{" + AB + "}").encode().replace(b"fc", junk), bytes(64))
    yield "pickle", b"\x80\x04\x95" + b"\0" * 100
    yield "zip", b"PK\x03\x04" + b"\0" * 100
    yield "HTML", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    yield "pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"


NAMES = ["", ".", "..", "../../etc/passwd.output", "/etc/passwd.output", "a/b.output", "C:\\a.output", "\0.output",
         "a\0.output", "\n.output", "wncore: error: x\n.output", "\x1b[2J\x1b]0;owned\x07.output", "\x9b31m.output",
         "\u202egnp.output", "\u200b.output", "\ufeff.output", "\u00e9.output", "e\u0301.output", "\U0001d54f.output",
         "\ue000.output", "\ufffe.output", "[bold].output", "%s%n.output", "{0.__class__}.output", "$(id).output", "*",
         "*.output", "[!a].output", "-x.output", "--force.output", "=1+1.output", "output", "input", "weight", "bias",
         "gram", "inputs", ".output", ".weight", "output.output", "fc.output.output", "a." * 400 + "output", "n" * 1000,
         "n" * 1001, "n" * 100_000, "9" * 999 + ".output", "\u0663.output", "\u00b2.output", "-1.output", "tokens.mask",
         "tokens.mask.output", "__metadata__.output", "__metadata__", "layer.output", "nan.output", "null"]  # fmt: skip


def odd_names() -> Iterator[Case]:
    """Call an output anything, alone and beside a plain one."""
    values = np.random.default_rng(5).standard_normal((8, 2)).astype(np.float32)
    for name in NAMES:
        yield f"name {name[:60]!r}", rawfile.pack(*rawfile.layout({name: values}))
        yield f"fc beside {name[:60]!r}", rawfile.pack(*rawfile.layout({"fc.output": values, name: values}))


LENGTHS = ["", "0", "-1", "1.5", "x", "1e3", "9" * 18, "9" * 19, "9" * 5000, "\u0663", "\u00b2", " 6", "6\n", "0x6",
           "+6", "6_0", "inf"]  # fmt: skip
SHARED = ["", "{", "[]", "null", "3", '"x"', '{"a":1}', '{"fc":"h.0.hook"}', '{"h.0.hook":"fc"}', '{"fc":"fc"}',
          '{"gone":"fc"}', '{"h.0.hook":"gone"}', '{"h.0.hook":"fc","h.0.hook":"x"}', '{"h.0.hook":"\\ud800"}', "NaN",
          "[" * DEEP, '{"h.0.hook":"' + "n" * 10_000 + '"}']  # fmt: skip
METADATA = [None, 1, "text", [], [["wncore.schema", "1"]], True, {}, {"a": 1}, {"a": None}, {"a": ["b"]}, {"": ""},
            {"a": {"b": "c"}}, {"\0": "\0"}, {"wncore.schema": 1}, {"wncore.model": "\x1b[2J"},
            {"wncore.model": "n" * 100_000},
            *[{"wncore.schema": text} for text in ("2", "", "1.0", "\0", "1" * 10_000)],
            *[{"wncore.sequence_length": text} for text in LENGTHS],
            *[{"wncore.shared_inputs": text} for text in SHARED]]  # fmt: skip


def odd_metadata() -> Iterator[Case]:
    """Say anything in the metadata, or say it twice."""
    header, data = rawfile.layout(tensors())
    for value in METADATA:
        yield f"metadata {str(value)[:80]}", rawfile.pack({"__metadata__": value, **header}, data)
    rest = json.dumps(header)[1:]
    for twice in ('{"__metadata__":{"a":"b"},"__metadata__":{"a":"b"},', '{"__metadata__":{"a":"b","a":"c"},'):
        yield f"metadata twice {twice}", rawfile.pack(twice + rest, data)
    yield "metadata as a tensor", rawfile.pack({**header, "__metadata__": header["fc.input"]}, data)


def odd_lengths() -> Iterator[Case]:
    """Announce a header of any length."""
    header, data = sound()
    size = len(rawfile.pack(header, data))
    for length in (0, 1, 2, 7, size - 9, size - 8, size - 7, size, 10**8, 10**8 + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
                   2**63 - 9, 2**63 - 1, 2**63, 2**64 - 9, 2**64 - 8, 2**64 - 1):  # fmt: skip
        yield f"header of {length} announced", rawfile.pack(header, data, length=length)


def few_tokens() -> Iterator[Case]:
    """Have too few tokens, channels or neurons, or masks that leave too few."""
    rng = np.random.default_rng(6)
    for n in range(4):
        for m in range(3):
            y = rng.standard_normal((n, m)).astype(np.float32)
            yield f"{n} x {m} outputs", rawfile.pack(*rawfile.layout({"fc.output": y}))
            for d in (0, 1):
                made = {"fc.input": rng.standard_normal((n, d)), "fc.weight": rng.standard_normal((m, d))}
                yield f"{n} tokens, {d} channels, {m} neurons", rawfile.pack(*rawfile.layout(made))
    for kept in range(4):
        for dtype in (np.uint8, np.bool_):
            mask = np.arange(24) < kept
            yield (
                f"{kept} tokens kept by {dtype}",
                rawfile.pack(*rawfile.layout({**tensors(), "tokens.mask": mask.astype(dtype)})),
            )
    shapes = [23, 25, (4, 6), (6, 4), (24, 1), (), 0]
    masks = [np.ones(shape, dtype) for shape in shapes for dtype in (bool, np.uint8)]
    masks += [np.ones(24, np.int8), np.ones(24, np.float32), np.ones((24, 1), np.float32), np.full(24, 2, np.uint8)]
    for mask in masks:
        made = {**tensors(), "tokens.mask": mask}
        yield f"mask {mask.dtype} {mask.shape}", rawfile.pack(*rawfile.layout(made))


def odd_shapes(count: int = 150) -> Iterator[Case]:
    """Make layers of tensors whose sizes mostly disagree."""
    chance, rng = random.Random(7), np.random.default_rng(7)
    for _ in range(count):
        made = {}
        for part in chance.sample(
            ["input", "output", "weight", "bias", "gram", "inputs", "outputs"], chance.randint(1, 5)
        ):
            shape = [chance.choice([1, 2, 3, 3, 3, 6]) for _ in range(chance.choice([0, 1, 2, 2, 2, 2, 3]))]
            made[f"fc.{part}"] = rng.standard_normal(shape).astype(chance.choice([np.float32, np.float64, np.float16]))
        shapes = {name: array.shape for name, array in made.items()}
        yield f"shapes {shapes}", rawfile.pack(*rawfile.layout(made))


GROUPS = [header_flips, data_flips, header_overwrites, data_overwrites, truncations, entry_edits, data_left_out,
          raw_headers, odd_names, odd_metadata, odd_lengths, few_tokens, odd_shapes]  # fmt: skip
