"""The document of a file of experts, ``wncore.expand/1``: what was asked for, what came out, what was read and stored.

It comes from files nobody checked: what it says is believed only as far as its type goes.
"""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from wncore.dumps import strict_json
from wncore.dumps.dump import EXPERTS as KEY
from wncore.dumps.header import Header
from wncore.errors import DumpError

SCHEMA = "wncore.expand/1"
DIGEST = f"{KEY}.sha256"
"""Of the document's text, so that no number in it changes unseen."""

Demand = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words and as a test."""


class StoredLayer(NamedTuple):
    """A layer of a file of experts, as its document says."""

    name: str
    shape: tuple[int, int]
    """(m, d)"""
    experts: int
    router: str
    """The layer whose router it uses; often its own."""
    described: Mapping[str, Any]
    """All that the document says of it."""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def _or_null(demand: Demand) -> Demand:
    return f"{demand[0]} or null", lambda value: value is None or demand[1](value)


def _list_of(demand: Demand, what: str) -> Demand:
    return f"a list of {what}", lambda value: strict_json.is_list(value) and all(map(demand[1], value))


TEXT: Demand = "text", lambda value: isinstance(value, str)
COUNT: Demand = "a whole number, 0 or more", _is_count
POSITIVE: Demand = "a whole number, 1 or more", lambda value: _is_count(value) and value > 0
SHARE: Demand = "a number from 0 to 1, without 1", lambda value: _is_number(value) and 0 <= value < 1
NUMBER: Demand = _or_null(("a number", _is_number))
COUNTS: Demand = _list_of(COUNT, "whole numbers, 0 or more")
NUMBERS: Demand = _list_of(NUMBER, "numbers")
SHAPE: Demand = "[neurons, inputs]", lambda value: _list_of(POSITIVE, "")[1](value) and len(value) == 2
DIGESTS: Demand = (
    "an object that maps names of tensors to SHA-256",
    lambda value: strict_json.is_object(value) and all(map(_is_digest, value.values())),
)
ENVIRONMENT: Demand = (
    "an object of texts and numbers",
    lambda value: strict_json.is_object(value) and not any(isinstance(one, list | dict) for one in value.values()),
)

DTYPES: Demand = (
    "an object that maps names of tensors to their types",
    lambda value: strict_json.is_object(value) and all(isinstance(one, str) for one in value.values()),
)

FAILED: Demand = (
    "a list of objects with name and error",
    lambda value: (
        strict_json.is_list(value)
        and all(strict_json.is_object(one) and set(one) == {"name", "error"} for one in value)
        and all(isinstance(text, str) for one in value for text in one.values())
    ),
)

REQUIRED: dict[str, Demand] = {
    "packed": ("true or false", lambda value: isinstance(value, bool)),
    "tensors": DIGESTS,
    "dtypes": DTYPES,
}
SETTINGS: dict[str, Demand] = {
    "source": TEXT,
    "version": TEXT,
    "backend": TEXT,
    "device": _or_null(TEXT),
    "threads": _or_null(POSITIVE),
    "memory": _or_null(POSITIVE),
    "holdout": SHARE,
    "skip_tokens": COUNT,
    "length": _or_null(POSITIVE),
    "environment": ENVIRONMENT,
    "inputs": DIGESTS,
    "failed": FAILED,
}
LAYER: dict[str, Demand] = {"name": TEXT, "shape": SHAPE, "experts": POSITIVE, "router": TEXT}
REPORT: dict[str, Demand] = {
    "pattern": TEXT,
    "group": _or_null(TEXT),
    "tokens": COUNT,
    "tokens_holdout": COUNT,
    "tokens_per_expert": COUNTS,
    "holdout_per_expert": COUNTS,
    "zeros": COUNT,
    "zeros_per_expert": COUNTS,
    "relative_error": NUMBER,
    "relative_error_holdout": NUMBER,
    "relative_error_per_expert": NUMBERS,
    "relative_error_holdout_per_expert": _or_null(NUMBERS),
}
"""What is said of a layer beyond what it takes to read it, and may be left out."""


def document_metadata(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a file of experts with this document."""
    text = json.dumps(document, allow_nan=False)
    return {"wncore.schema": "1", KEY: text, DIGEST: text_digest(text)}


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return sha256(text.encode()).hexdigest()


def read_document(header: Header) -> dict[str, Any]:
    """Parse the document of a file of experts, and check its types.

    Raises
    ------
    DumpError
        If there is none, or it is not sound JSON of this schema, or a value has the wrong type.
    """
    path, schema = header.path, header.metadata.get("wncore.schema", "none")
    if KEY not in header.metadata:
        raise DumpError(f"{path} holds no experts: its metadata have no {KEY}; name a file of `wncore expand`")
    if schema != "1":
        raise DumpError(f"{path} has schema {schema[:40]!r}; this version reads 1, install a newer wncore")
    try:
        document = strict_json.loads(header.metadata[KEY].encode())
    except ValueError as error:
        raise DumpError(f"{path}: {KEY} is not sound JSON: {error}; expand the layers again") from error
    if not strict_json.is_object(document):
        raise DumpError(f"{path}: {KEY} is no JSON object; expand the layers again")
    if document.get("schema") != SCHEMA:
        told = _told(document.get("schema"))
        raise DumpError(f"{path}: {KEY} has schema {told}; this version reads {SCHEMA}, install a newer wncore")
    check_fields(path, document, REQUIRED, SETTINGS)
    return document


def read_layers(path: Path, document: Mapping[str, Any]) -> dict[str, StoredLayer]:
    """Return the layers that a document describes, by name, in its order.

    Raises
    ------
    DumpError
        If there is none, one comes twice or lacks a field, or its router is that of a layer that has none of its own.
    """
    listed = document.get("layers")
    if not strict_json.is_list(listed) or not listed or not all(map(strict_json.is_object, listed)):
        raise DumpError(f"{path}: {KEY} lists no layers; expand the layers again")
    layers: dict[str, StoredLayer] = {}
    for one in listed:
        check_fields(path, one, LAYER, REPORT)
        m, d = one["shape"]
        if one["name"] in layers:
            raise DumpError(f"{path}: {KEY} lists {one['name'][:80]} twice; expand the layers again")
        layers[one["name"]] = StoredLayer(one["name"], (m, d), one["experts"], one["router"], one)
    for layer in layers.values():
        owner = layers.get(layer.router)
        where = f"{path}: {layer.name[:80]} uses the router of {layer.router[:80]}"
        if owner is None or owner.router != owner.name:
            has = "is not in the file" if owner is None else f"uses that of {owner.router[:80]}"
            raise DumpError(f"{where}, which {has}; expand both together")
        if (owner.experts, owner.shape[1]) != (layer.experts, layer.shape[1]):
            raise DumpError(
                f"{where}: {owner.experts} experts of {owner.shape[1]} inputs, and it has {layer.experts} of "
                f"{layer.shape[1]}; expand both together"
            )
    return layers


def check_fields(
    path: Path, described: Mapping[str, Any], required: Mapping[str, Demand], optional: Mapping[str, Demand]
) -> None:
    """Raise `DumpError` for a field that is missing, or of the wrong type."""
    for key, (what, right) in {**required, **optional}.items():
        whose = f"{described['name'][:80]}: " if isinstance(described.get("name"), str) else ""
        if key in required and key not in described:
            raise DumpError(f"{path}: {whose}{KEY} does not say {key}; expand the layers again")
        if key in described and not right(described[key]):
            raise DumpError(
                f"{path}: {whose}{key} in {KEY} is {_told(described[key])}, and must be {what}; expand the layers again"
            )


def _told(value: Any) -> str:
    """Say what a value is, in a few characters however long or deep it is."""
    if strict_json.is_list(value) or strict_json.is_object(value):
        return f"{'a list' if strict_json.is_list(value) else 'an object'} of {len(value)}"
    return repr(value)[:60]
