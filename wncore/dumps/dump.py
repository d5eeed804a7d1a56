"""Opening a dump: find its files, recognise its tensors, check that they fit together.

No tensor is read, but weights that two files hold are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wncore.dumps.header import Entry, Header, read_header
from wncore.dumps.layer import Layer, as_column
from wncore.dumps.metadata import count_gram_tokens, merge_metadata, share_inputs, stated_length
from wncore.dumps.sources import by_number, find_files
from wncore.dumps.tensor import CHUNK, Tensor
from wncore.errors import DumpError, InputError

SUFFIXES = {
    "input": "input",
    "inputs": "input",
    "output": "output",
    "outputs": "output",
    "weight": "weight",
    "bias": "bias",
    "gram": "gram",
}
MASK = "tokens.mask"
EXPERTS = "wncore.expand"
"""Metadata of a file of sparse experts (`wncore.experts.files`), which is no dump."""
UNNAMED = "layer"
"""What a layer is called whose tensors are named just "input", "weight" and so on."""

Piece = tuple[Header, Entry]


@dataclass(frozen=True)
class Dump:
    """The layers of one or more files, in the order of their names, numbers by value."""

    source: str
    layers: dict[str, Layer]
    metadata: dict[str, str]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    """What was passed over, and why."""


@dataclass
class _Found:
    """Tensors by layer and part, as the files are read."""

    parts: dict[str, dict[str, list[Piece]]] = field(default_factory=dict[str, dict[str, list[Piece]]])
    masks: list[Piece] = field(default_factory=list[Piece])
    notes: list[str] = field(default_factory=list[str])
    faults: dict[str, str] = field(default_factory=dict[str, str])
    """By layer, what is wrong with its tensors."""
    spoiled: set[str] = field(default_factory=set[str])
    """Layers whose input, or whose mask, is at fault: nobody else may read it."""


def open_dump(*sources: str | Path, length: int | None = None) -> Dump:
    """Open files, a sharded set by its index, or a folder of either, as one dump.

    An input or output that several files hold is one tensor, cut between tokens, in the order of the files. `length`
    is the tokens of a sequence, for a dump that does not say. A layer that is empty, or whose tensors do not fit
    together, says so when it is used (`Layer.check`).

    Raises
    ------
    DumpError
        As `survey_dump`; or if no layer at all can be used.
    InputError
        As `survey_dump`.
    """
    dump = survey_dump(*sources, length=length)
    reasons = [layer.fault or layer.empty for layer in dump.layers.values()]
    if all(reasons):
        raise _noting(DumpError(reasons[0]), dump.notes)
    return dump


def survey_dump(*sources: str | Path, length: int | None = None) -> Dump:
    """Open a dump as `open_dump`, but for no other end than to say what it holds: no layer need be sound.

    Raises
    ------
    DumpError
        If a file is damaged, or there is no layer.
    InputError
        If `length` is not positive, or not what the dump says.
    """
    if length is not None and length < 1:
        raise InputError(f"a sequence has at least one token; got a length of {length}")
    if "" in sources:
        raise DumpError("an empty name is no file; give a .safetensors file, an index or a folder of them")
    expected = find_files([Path(source) for source in sources])
    headers = [read_header(path) for path in expected]
    for header in headers:
        if EXPERTS in header.metadata:
            raise DumpError(
                f"{header.path} holds sparse experts, no inputs or outputs; `wncore inspect` says more of it, `wncore "
                f"verify` checks it"
            )
        for name in sorted(expected[header.path] - header.tensors.keys())[:1]:
            raise DumpError(f"{header.path} lacks {name[:80]}, which its index says it holds; copy the file again")
    metadata = merge_metadata(headers)
    found = _Found()
    for header in headers:
        for name, entry in header.tensors.items():
            _recognise(header, name, entry, found)
    try:
        layers = _layers(found, metadata, length)
        if not layers:
            raise DumpError(
                f"{', '.join(map(str, sources))} holds no layer: no floating tensor of two or more axes; capture one"
            )
    except InputError as error:
        raise _noting(error, found.notes) from None
    return Dump(", ".join(map(str, sources)), layers, metadata, tuple(expected), tuple(found.notes))


def _noting(error: InputError, notes: Sequence[str]) -> InputError:
    """Add to an error what was passed over: it may be the reason."""
    for note in notes:
        error.add_note(note)
    return error


def _layers(found: _Found, metadata: dict[str, str], length: int | None) -> dict[str, Layer]:
    """Make layers of the tensors that were found, in the order of their names, numbers by value."""
    stated = stated_length(metadata)
    if stated and length and stated != length:
        raise InputError(f"the dump says that a sequence has {stated} tokens, and you say {length}; leave --length out")
    length = stated or length
    layers = {name: _layer(name, parts, found, length) for name, parts in found.parts.items()}
    count_gram_tokens(layers, metadata)
    share_inputs(layers, metadata, found.spoiled)
    return {name: _checked(layers[name]) for name in sorted(layers, key=by_number)}


def _recognise(header: Header, name: str, entry: Entry, found: _Found) -> None:
    owner, _, suffix = name.rpartition(".")
    part = SUFFIXES.get(suffix)
    where = f"{name} in {header.path}"
    if name == MASK:
        if entry.dtype not in ("BOOL", "U8"):
            raise DumpError(f"{where} has type {entry.dtype}; a mask must be BOOL or U8, write it again")
        found.masks.append(as_column(header, entry))
        return
    if not entry.floating:
        if part is not None:
            what = f"{where} has type {entry.dtype}; a floating type is needed (dequantise it first)"
            _blame(found, owner or UNNAMED, part, what)
            return
        found.notes.append(f"{name} is passed over: its type is {entry.dtype}")
        return
    if part == "bias" and len(entry.shape) == 1:
        header, entry = as_column(header, entry)
    elif len(entry.shape) < 2 or (part in ("weight", "gram", "bias") and len(entry.shape) != 2):
        found.notes.append(f"{name} is passed over: its shape is {entry.shape}")
        return
    layer = (owner or UNNAMED) if part else name
    pieces = found.parts.setdefault(layer, {}).setdefault(part or "output", [])
    for other, held in pieces:
        if other is header:
            what = f"{header.path} holds {held.name} and {name}, two names for one tensor; keep one"
            _blame(found, layer, part, what)
            return
    pieces.append((header, entry))


def _blame(found: _Found, layer: str, part: str | None, what: str) -> None:
    """Note what is wrong with a part of a layer; it concerns no other, unless that reads the same input."""
    found.parts.setdefault(layer, {})
    found.faults.setdefault(layer, what)
    if part in ("input", None):
        found.spoiled.add(layer)


def _layer(name: str, parts: dict[str, list[Piece]], found: _Found, length: int | None) -> Layer:
    """Make a layer of its tensors; what is wrong with it concerns no other."""
    tensors: dict[str, Tensor] = {}
    mask = None
    try:
        for part, pieces in parts.items():
            tensors[part] = _tensor(part, [piece for piece in pieces if 0 not in piece[1].shape] or pieces[:1])
        source = tensors.get("output") or tensors.get("input")
        mask = _mask(source, found.masks) if source is not None and source.rows * source.columns else None
    except DumpError as error:
        _blame(found, name, None, str(error))
    x, y, w, b, h = (tensors.get(part) for part in ("input", "output", "weight", "bias", "gram"))
    return Layer(name, x, y, w, b, h, mask=mask, sequence_length=length, fault=found.faults.get(name))


def _tensor(part: str, pieces: list[Piece]) -> Tensor:
    (first_header, first), *others = pieces
    name = first.name
    for header, entry in others:
        if entry.dtype != first.dtype or entry.shape[-1] != first.shape[-1]:
            raise DumpError(
                f"{name} is {first.dtype} {first.shape} in {first_header.path} and {entry.dtype} {entry.shape} in "
                f"{header.path}; pieces must have one type and width"
            )
    if part in ("input", "output"):
        return Tensor(part, tuple(pieces))
    one = Tensor(part, (pieces[0],))
    for piece in pieces[1:]:
        if not _same_bytes(one, Tensor(part, (piece,))):
            raise DumpError(f"{name} differs between {first_header.path} and {piece[0].path}; keep the right one")
    return one


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    if a.rows != b.rows:
        return False
    return all(a.read(rows).tobytes() == b.read(rows).tobytes() for rows in a.chunks(a.columns * a.itemsize, CHUNK))


def _mask(source: Tensor, masks: list[Piece]) -> Tensor | None:
    """Find the mask of a tensor: each file's own, or the one mask of the set if it is as long as the tensor."""
    if not masks:
        return None

    def demand(fits: bool, mask: str, positions: int, tokens: int) -> None:
        if not fits:
            raise DumpError(
                f"{mask} has {positions} positions for the {tokens} tokens of {source.name}; write one for each"
            )

    by_file = {header.path: (header, entry) for header, entry in masks}
    own = [by_file[header.path] for header, _ in source.pieces if header.path in by_file]
    if len(own) == len(source.pieces):
        for (header, mask), (_, entry) in zip(own, source.pieces, strict=True):
            demand(mask.rows == entry.rows, f"{mask.name} in {header.path}", mask.rows, entry.rows)
        return Tensor("mask", tuple(own))
    whole = Tensor("mask", tuple(masks))
    demand(whole.rows == source.rows, whole.name, whole.rows, source.rows)
    return whole


def _checked(layer: Layer) -> Layer:
    """Return the layer, with what its shapes show to be wrong with it."""
    if layer.fault is not None:
        return layer
    for tensor in filter(None, (layer.input, layer.output, layer.weight, layer.bias, layer.gram)):
        if not tensor.rows * tensor.columns:
            (header, entry), *_ = tensor.pieces
            what = f"{entry.name} in {header.path} is empty: its shape is {entry.shape}; capture it again"
            return replace(layer, empty=what)
    try:
        _check_shapes(layer)
    except DumpError as error:
        return replace(layer, fault=str(error))
    return layer


def _check_shapes(layer: Layer) -> None:
    def demand(fits: bool, what: str) -> None:
        if not fits:
            raise DumpError(f"{layer.name}: {what}; the tensors are not of one layer and one run")

    x, y, w, b, h = layer.input, layer.output, layer.weight, layer.bias, layer.gram
    if x is not None and y is not None:
        demand(x.rows == y.rows, f"input has {x.rows} tokens, output {y.rows}")
    if x is not None and w is not None:
        demand(x.columns == w.columns, f"input has {x.columns} channels, weight {w.columns} columns")
    if y is not None and w is not None:
        demand(y.columns == w.rows, f"output has {y.columns} neurons, weight {w.rows} rows")
    if b is not None:
        demand(layer.neurons in (0, b.rows), f"bias has {b.rows} entries for {layer.neurons} neurons")
    if h is not None:
        width = w.columns if w is not None else x.columns if x is not None else h.columns
        demand(h.rows == h.columns == width, f"gram is {h.rows} x {h.columns} for {width} inputs")
