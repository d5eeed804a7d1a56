"""What the metadata of a dump says of its layers: length of a sequence, shared inputs, tokens of Gram matrices."""

from collections.abc import Container, Iterable
from dataclasses import replace
from typing import TypeVar

from wncore.dumps import strict_json
from wncore.dumps.axes import several
from wncore.dumps.header import Header
from wncore.dumps.layer import Layer
from wncore.errors import DumpError, listed

Value = TypeVar("Value", str, int)
READ = ("sequence_length", "shared_inputs", "gram_tokens")
"""What changes how a dump is read, behind `wncore.`."""
WRITTEN = ("schema", "model", "text", "capture", "prune", "expand")
"""What else is written there."""


def merge_metadata(headers: Iterable[Header]) -> dict[str, str]:
    """Join the metadata of all files; they must be of schema 1, and agree on what is wncore's own."""
    merged: dict[str, str] = {}
    for header in headers:
        schema = header.metadata.get("wncore.schema", "1")
        if schema != "1":
            raise DumpError(f"{header.path} has schema {schema[:40]!r}; this version reads 1, install a newer wncore")
        for key, value in header.metadata.items():
            if merged.setdefault(key, value) != value and key.startswith("wncore."):
                raise DumpError(
                    f"{header.path} says {key[:80]} = {value[:80]!r}, another file of the dump {merged[key][:80]!r}; "
                    f"read them one by one"
                )
    return merged


def unread(metadata: Iterable[str]) -> list[str]:
    """Return a note on names that are almost those that change how a dump is read, and have no effect."""
    idle = [key[:80] for key in metadata if key in READ]
    idle += [key[:80] for key in metadata if key.startswith("wncore.") and key.split(".")[1] not in READ + WRITTEN]
    read = listed([f"wncore.{key}" for key in READ])
    return [f"metadata without effect: {several(idle)}; what is read is called {read}"] if idle else []


def stated_length(metadata: dict[str, str]) -> int | None:
    """Return the tokens of a sequence, if they are named."""
    text = metadata.get("wncore.sequence_length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) > 0):
        raise DumpError(f"wncore.sequence_length is {text[:40]!r}; it must be a positive number")
    return int(text)


def count_gram_tokens(layers: dict[str, Layer], metadata: dict[str, str]) -> list[str]:
    """Tell layers how many tokens are behind their Gram matrices; return a note on names without effect."""
    idle: list[str] = []
    for name, count in _table(metadata, "wncore.gram_tokens", "numbers of tokens", int).items():
        if not 0 < count < 2**63:
            raise DumpError(f"wncore.gram_tokens: {name[:80]} has {count}; a Gram matrix is of one token at least")
        if name in layers and layers[name].gram is not None:
            layers[name] = replace(layers[name], gram_tokens=count)
        else:
            idle.append(name[:80])
    return [f"wncore.gram_tokens has no effect on {several(idle)}: no gram of that name is there"] if idle else []


def shared_inputs(metadata: dict[str, str]) -> dict[str, str]:
    """Return names of layers, and for each the layer with which the input that it reads is stored."""
    return _table(metadata, "wncore.shared_inputs", "names of layers", str)


def share_inputs(layers: dict[str, Layer], shared: dict[str, str], spoiled: Container[str] = ()) -> list[str]:
    """Give layers the input, or its Gram matrix, that is stored with another layer; return a note on idle names.

    What is wrong with the input of a `spoiled` layer is wrong with those that read it.
    """
    idle: list[str] = []
    for name, owner in shared.items():
        reader, source = layers.get(name), layers.get(owner)
        if reader is None or reader.input is not None:
            idle.append(name[:80])
            continue
        if source is not None and owner in spoiled:
            layers[name] = replace(reader, fault=reader.fault or source.fault)
            continue
        if source is None or (source.input is None and source.gram is None):
            raise DumpError(f"wncore.shared_inputs: {name} reads the input of {owner[:80]}, which is not there; add it")
        mask = source.mask if reader.output is None else reader.mask
        gram = {} if reader.gram is not None else {"gram": source.gram, "gram_tokens": source.gram_tokens}
        layers[name] = replace(reader, input=source.input, mask=mask, **gram)
    what = "no such layer is there, or it has an input of its own"
    return [f"wncore.shared_inputs has no effect on {several(idle)}: {what}"] if idle else []


def _table(metadata: dict[str, str], key: str, what: str, kind: type[Value]) -> dict[str, Value]:
    """Read metadata that maps names of layers to values of one kind."""
    text = metadata.get(key)
    if text is None:
        return {}
    try:
        found = strict_json.loads(text.encode())
    except ValueError as error:
        raise DumpError(f"{key} is not sound JSON: {error}; write the dump again") from error
    if not strict_json.is_object(found) or not all(type(value) is kind for value in found.values()):
        raise DumpError(f"{key} must map names of layers to {what}; write the dump again")
    return found
