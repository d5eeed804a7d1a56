"""Damaged and malicious files of experts, made from a sound one; sealed, so that no hash gives them away."""

import json
from collections.abc import Iterator
from typing import Any

import expert_samples as samples
import numpy as np
import rawfile

Tensors = dict[str, Any]
Case = tuple[str, Tensors, Any, str]
"""Label, tensors, document (or its text), and what the error must say."""
DEEP = 100_000


def edited(document: Any, **changes: Any) -> Any:
    """Return a document with other fields."""
    return {**document, **changes}


def in_layer(document: Any, i: int, **changes: Any) -> Any:
    """Return a document with other fields of one layer; None leaves a field out."""
    layers = [dict(layer) for layer in document["layers"]]
    layers[i] |= changes
    return edited(document, layers=layers)


def texts() -> Iterator[tuple[str, str]]:
    """Give documents that are no JSON, or none of this kind."""
    yield "", "wncore.expand is not sound JSON"
    yield "{", "wncore.expand is not sound JSON"
    yield "[" * DEEP, "wncore.expand is not sound JSON: it is nested too deeply"
    yield '{"schema":' * 500 + "1" + "}" * 500, "has schema an object of 1; this version reads wncore.expand/1"
    yield '{"schema": "wncore.expand/1", "schema": "wncore.expand/1"}', "'schema' stands twice in one object"
    yield '{"schema": NaN}', "NaN is no JSON"
    yield '{"schema": "wncore.expand/1", "packed": 1e999}', "1e999 is too large a number"
    yield '{"schema": "\\ud800"}', "wncore.expand is not sound JSON"
    yield "[]", "wncore.expand is no JSON object"
    yield "null", "wncore.expand is no JSON object"
    yield "{}", "has schema None; this version reads wncore.expand/1, install a newer wncore"
    yield '{"schema": "wncore.expand/2"}', "has schema 'wncore.expand/2'; this version reads"
    yield '{"schema": "wncore.expand/1"}', "wncore.expand does not say packed; expand the layers again"
    head = '{"schema": "wncore.expand/1", "packed": false, "tensors": {}, "dtypes": {}'
    for layers in ("[]", "null", "{}", "[[]]", '["a.up"]', "3"):
        yield f'{head}, "layers": {layers}}}', "wncore.expand lists no layers"
    yield f"{head}}}", "wncore.expand lists no layers"
    yield f'{head}, "layers": [{{}}]}}', "does not say name"


NO_TEXT = [3, True, 1.5, [], {}, ["x"]]
NO_COUNT = ["3", True, -1, 1.5, [], {}, 2**63, 2**64]
NO_NUMBER = ["0.5", True, [], {}, [0.5]]
NO_COUNTS = ["[1]", None, 3, {}, [None], ["1"], [-1], [1.5], [[1]]]
NO_DIGESTS = ["x", None, 3, [], {"a": 3}, {"a": "00"}, {"a": "g" * 64}, {"a": None}]
SETTINGS = {
    "source": [None, *NO_TEXT],
    "version": [None, *NO_TEXT],
    "backend": [None, *NO_TEXT],
    "device": NO_TEXT,
    "threads": [0, *NO_COUNT],
    "memory": [0, *NO_COUNT],
    "length": [0, *NO_COUNT],
    "skip_tokens": [None, *NO_COUNT],
    "holdout": [None, 1, -0.1, 2, *NO_NUMBER],
    "environment": [None, "x", 3, [], {"cpu": []}, {"cpu": {}}],
    "inputs": NO_DIGESTS,
    "tensors": NO_DIGESTS,
    "dtypes": [None, "F32", [], {"a": 1}, {"a": ["F32"]}],
    "packed": [None, 0, 1, "true", [], {}],
}
LAYER = {
    "name": [None, *NO_TEXT],
    "router": [None, *NO_TEXT],
    "pattern": [None, *NO_TEXT],
    "group": NO_TEXT,
    "shape": [None, 3, "5, 11", [], [5], [5, 11, 1], [5, 0], [5, -11], [5, "11"], [5.0, 11], {}],
    "experts": [None, 0, *NO_COUNT],
    "tokens": [None, *NO_COUNT],
    "tokens_holdout": [None, *NO_COUNT],
    "zeros": [None, *NO_COUNT],
    "zeros_per_expert": NO_COUNTS,
    "tokens_per_expert": NO_COUNTS,
    "holdout_per_expert": NO_COUNTS,
    "relative_error": NO_NUMBER,
    "relative_error_holdout": NO_NUMBER,
    "relative_error_per_expert": ["x", None, 3, {}, ["1"], [True], [[1]]],
    "relative_error_holdout_per_expert": ["x", 3, {}, ["1"], [True], [[1]]],
}
"""Values that each field cannot have."""


def fields(tensors: Tensors, document: Any) -> Iterator[Case]:
    """Leave fields of the document out, or fill them with what does not belong there."""
    for key in ("packed", "tensors", "dtypes", "layers"):
        yield f"no {key}", tensors, {name: value for name, value in document.items() if name != key}, key
    for key in ("name", "shape", "experts", "router"):
        layers = [{name: value for name, value in layer.items() if name != key} for layer in document["layers"]]
        yield f"no {key}", tensors, edited(document, layers=layers), f"does not say {key}"
    for key, values in SETTINGS.items():
        for value in values:
            yield f"{key} = {value}", tensors, edited(document, **{key: value}), f"{key} in wncore.expand is "
    for key, values in LAYER.items():
        for value in values:
            yield f"{key} = {value}", tensors, in_layer(document, 0, **{key: value}), f"{key} in wncore.expand is "


def misfits(tensors: Tensors, document: Any) -> Iterator[Case]:
    """Let document and tensors, or tensors among themselves, disagree."""
    for k in (1, 2, 4, 10**12, 2**62):
        yield f"{k} experts", tensors, in_layer(document, 0, experts=k), "a.gate uses the router of a.up: "
        both = in_layer(in_layer(document, 0, experts=k), 1, experts=k)
        yield f"{k} experts in all", tensors, both, "a.up.experts in "
    yield "another shape", tensors, in_layer(document, 0, shape=[5, 12]), "a.gate uses the router of a.up"
    yield (
        "more neurons",
        tensors,
        in_layer(document, 0, shape=[10**15, 11]),
        "(3, 1000000000000000, 11), expand the layer",
    )
    yield "twice", tensors, in_layer(document, 1, name="a.up"), "lists a.up twice"
    yield "no such router", tensors, in_layer(document, 1, router="gone"), "of gone, which is not in the file"
    yield (
        "a cycle",
        tensors,
        in_layer(in_layer(document, 0, router="a.gate"), 1, router="a.up"),
        "which uses that of a.",
    )
    yield "a chain", tensors, in_layer(in_layer(document, 0, router="a.gate"), 1, router="a.gate"), "a.gate.router.mean"
    yield "its own router", tensors, in_layer(document, 1, router="a.gate"), "lacks a.gate.router.mean, which its"
    yield "packed", tensors, edited(document, packed=True), "lacks a.up.experts.mask, which its document promises"
    yield (
        "a layer less",
        tensors,
        edited(document, layers=document["layers"][:1]),
        "which its document does not mention",
    )
    for name, (dtype, shape, content) in tensors.items():
        rest = {key: part for key, part in tensors.items() if key != name}
        if name != "a.up.bias":
            yield f"{name} left out", rest, document, f"lacks {name}, which its document promises"
        yield f"{name} flat", tensors | {name: (dtype, [1, *shape, 1], content)}, document, f"{name} in "
        yield f"{name} as bytes", tensors | {name: ("U8", [len(content)], content)}, document, f"{name} in "
        yield f"{name} empty", tensors | {name: (dtype, [0], b"")}, document, name
    extra = tensors | {"b.up.experts": tensors["a.up.experts"]}
    yield "a tensor more", extra, document, "holds b.up.experts, which its document does not mention"
    double = tensors["a.up.router.mean"][:2], np.zeros(samples.D).tobytes()
    mean = {"a.up.router.mean": ("F64", double[0][1], double[1])}
    yield "mixed dtypes", tensors | mean, document, "the router of a.up in "
    wide = {"a.up.router.components": ("F32", [3, samples.D], bytes(12 * samples.D))}
    yield (
        "another rank",
        tensors | wide,
        document,
        "does not fit together: components F32 (3, 11), centroids F32 (3, 2)",
    )
    none = {"a.up.router.components": ("F32", [0, samples.D], b""), "a.up.router.centroids": ("F32", [3, 0], b"")}
    yield "no rank", tensors | none, document, "does not fit together"


def values(tensors: Tensors, document: Any) -> Iterator[Case]:
    """Store numbers that are none."""
    for name, (dtype, shape, content) in tensors.items():
        for value in (np.nan, np.inf):
            if dtype == "F32":
                changed = np.float32(value).tobytes() + content[4:]
                says = "holds NaN or infinity, 1 values of"
                yield f"{value} in {name}", tensors | {name: (dtype, shape, changed)}, document, says
    negative = {"a.up.router.counts": ("I64", [3], np.array([-1, 2, 3]).tobytes())}
    yield "negative counts", tensors | negative, document, "a.up.router.counts in "


def masks(tensors: Tensors, document: Any) -> Iterator[Case]:
    """Let mask and values disagree; the file is packed."""
    dtype, shape, content = tensors["a.up.experts.mask"]
    name, kept = "a.up.experts.mask", tensors["a.up.experts.values"]
    yield (
        "mask too short",
        tensors | {name: (dtype, [3, 5, 1], content[:15])},
        document,
        "is U8 (3, 5, 1); its document",
    )
    yield (
        "mask too long",
        tensors | {name: (dtype, [3, 5, 3], bytes(45))},
        document,
        "U8 (3, 5, 3)",
    )
    yield "one bit less", tensors | {name: (dtype, shape, less(content))}, document, "weights, and 84 values are stored"
    yield "all bits", tensors | {name: (dtype, shape, b"\xff\x07" * 15)}, document, "keeps 165 weights, and 84 values"
    yield "no bits", tensors | {name: (dtype, shape, bytes(30))}, document, "keeps 0 weights, and 84 values are stored"
    padded = content[:1] + bytes([content[1] | 0x80]) + content[2:]
    yield "padding", tensors | {name: (dtype, shape, padded)}, document, "has a bit set behind the last of 11 inputs"
    short = {"a.up.experts.values": (kept[0], [kept[1][0] - 1], kept[2][:-4])}
    yield "a value less", tensors | short, document, "keeps 84 weights, and 83 values are stored"
    yield (
        "none",
        tensors | {"a.up.experts.values": (kept[0], [0], b"")},
        document,
        "keeps 84 weights, and 0 values are stored",
    )
    huge = in_layer(in_layer(document, 0, experts=10**9), 1, experts=10**9)
    yield "huge k", tensors, huge, "its document promises U8 (1000000000, 5, 2)"


def less(mask: bytes) -> bytes:
    """Clear the first bit that is set."""
    place = next(i for i, byte in enumerate(mask) if byte)
    return mask[:place] + bytes([mask[place] & (mask[place] - 1)]) + mask[place + 1 :]


NAMES = ["", ".", "../../etc/passwd", "/etc/passwd", "a\0b", "\n", "wncore: error: x\n", "\x1b[2J\x1b]0;owned\x07",
         "\u202egnp", "\U0001d54f", "%s%n", "{0.__class__}", "$(id)", "*", "-x", "experts", "router.mean",
         "a.up.experts", "tokens.mask", "n" * 900]  # fmt: skip


def renamed(tensors: Tensors, document: Any, name: str) -> tuple[Tensors, Any]:
    """Call the first layer anything."""
    layers = [layer | {"router": name} for layer in document["layers"]]
    layers[0]["name"] = name
    moved = {name + key.removeprefix("a.up") if key.startswith("a.up.") else key: one for key, one in tensors.items()}
    return moved, edited(document, layers=layers)


def header_of(content: bytes) -> int:
    """Return where the tensors of a file begin."""
    return 8 + int.from_bytes(content[:8], "little")


def truncations(content: bytes) -> Iterator[bytes]:
    """Cut a file anywhere."""
    start = header_of(content)
    places = {
        *range(0, start, max(1, start // 40)),
        *range(start - 2, len(content), max(1, (len(content) - start) // 40)),
    }
    yield from (content[:place] for place in sorted(places))


def without_metadata(tensors: Tensors) -> bytes:
    """Return a file that does not say what it is."""
    return rawfile.pack(*rawfile.layout(tensors))


def with_text(tensors: Tensors, value: Any) -> bytes:
    """Return a file whose metadata are anything."""
    header, data = rawfile.layout(tensors)
    return rawfile.pack(json.dumps({"__metadata__": value, **header}), data)
