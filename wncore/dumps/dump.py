"""Opening a dump: find its files, recognise its tensors, check that they fit together.

No tensor is read, but weights that two files hold are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wncore.dumps.axes import Parts, Piece, settle_axes
from wncore.dumps.header import Entry, Header, read_header
from wncore.dumps.layer import Layer, as_column
from wncore.dumps.metadata import count_gram_tokens, merge_metadata, share_inputs, stated_length
from wncore.dumps.orientation import TRANSPOSED, transposed_shape, undecided
from wncore.dumps.sequences import check_effect, check_sequences
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

    parts: dict[str, Parts] = field(default_factory=dict[str, Parts])
    masks: list[Piece] = field(default_factory=list[Piece])
    notes: list[str] = field(default_factory=list[str])


def open_dump(*sources: str | Path, length: int | None = None) -> Dump:
    """Open files, a sharded set by its index, or a folder of either, as one dump.

    An input or output that several files hold is one tensor, cut between tokens, in the order of the files. `length`
    is the tokens of a sequence, for a dump that does not say.

    Raises
    ------
    DumpError
        If a file is damaged, or the tensors of a layer do not fit together, or there is no layer.
    InputError
        If `length` is not positive, or not what the dump says.
    """
    if length is not None and length < 1:
        raise InputError(f"a sequence has at least one token; got a length of {length}")
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
    stated = stated_length(metadata)
    if stated and length and stated != length:
        raise InputError(f"the dump says that a sequence has {stated} tokens, and you say {length}; leave --length out")
    option, length = length, stated or length
    found.notes += settle_axes(found.parts, found.masks, length)
    layers = {name: _layer(name, parts, found, length) for name, parts in found.parts.items()}
    found.notes += [*count_gram_tokens(layers, metadata), *share_inputs(layers, metadata)]
    kept = {name: layers[name] for name in sorted(layers, key=by_number)}
    for layer in kept.values():
        _check_shapes(layer)
    if not kept:
        raise DumpError(
            f"{', '.join(map(str, sources))} holds no layer: no floating tensor of two or more axes; capture one"
        )
    found.notes += [*check_effect(kept.values(), option, stated, bool(found.masks)), *undecided(kept.values())]
    return Dump(", ".join(map(str, sources)), kept, metadata, tuple(expected), tuple(found.notes))


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
            raise DumpError(f"{where} has type {entry.dtype}; a floating type is needed (dequantise it first)")
        found.notes.append(f"{name} is passed over: its type is {entry.dtype}")
        return
    if part == "bias" and len(entry.shape) == 1:
        header, entry = as_column(header, entry)
    elif len(entry.shape) < 2 or (part in ("weight", "gram", "bias") and len(entry.shape) != 2):
        found.notes.append(f"{name} is passed over: its shape is {entry.shape}")
        return
    if 0 in entry.shape:
        raise DumpError(f"{where} is empty: its shape is {entry.shape}; capture it again")
    pieces = found.parts.setdefault((owner or UNNAMED) if part else name, {}).setdefault(part or "output", [])
    for other, held in pieces:
        if other is header:
            raise DumpError(f"{header.path} holds {held.name} and {name}, two names for one tensor; keep one")
    pieces.append((header, entry))


def _layer(name: str, parts: Parts, found: _Found, length: int | None) -> Layer:
    tensors = {part: _tensor(part, pieces) for part, pieces in parts.items()}
    source = tensors.get("output") or tensors.get("input")
    mask = _mask(source, found.masks) if source is not None else None
    x, y, w, b, h = (tensors.get(part) for part in ("input", "output", "weight", "bias", "gram"))
    return Layer(name, x, y, w, b, h, mask=mask, sequence_length=length)


def _tensor(part: str, pieces: list[Piece]) -> Tensor:
    (first_header, first), *others = pieces
    name = first.name
    for header, entry in others:
        if entry.dtype != first.dtype or entry.columns != first.columns:
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


def _check_shapes(layer: Layer) -> None:
    other = f", or {TRANSPOSED}" if transposed_shape(layer) else ""

    def demand(fits: bool, what: str) -> None:
        if not fits:
            raise DumpError(f"{layer.name}: {what}; the tensors are not of one layer and one run{other}")

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
    check_sequences(layer)


def scorable_layers(dump: Dump, names: Sequence[str]) -> list[Layer]:
    """Return the named layers that have outputs or inputs and weights.

    Raises
    ------
    DumpError
        If one of them has an input or a bias, but not what it takes, or none has anything but weights.
    """
    chosen = [dump.layers[name] for name in names]
    for layer in chosen:
        if layer.input is not None and not layer.scorable:
            raise DumpError(f"{layer.name} has an input but no weight and no output; add one, or leave it out: --layer")
    ready = [layer for layer in chosen if layer.scorable]
    if not ready:
        raise DumpError(
            f"{dump.source} holds weights but no activations of {', '.join(names[:3])}; a dump needs each layer's "
            f"output, or its input and weight"
        )
    return ready


def prunable_layers(dump: Dump, names: Sequence[str]) -> list[Layer]:
    """Return the named layers that have weights, and inputs or their Gram matrix.

    Raises
    ------
    DumpError
        If none has.
    """
    ready = [dump.layers[name] for name in names if dump.layers[name].prunable]
    if not ready:
        raise DumpError(
            f"{dump.source} cannot be pruned: none of {', '.join(names[:3])} has a weight and an input, or its gram"
        )
    return ready


def expandable_layers(dump: Dump, names: Sequence[str]) -> list[Layer]:
    """Return the named layers that have weights and inputs.

    Raises
    ------
    DumpError
        If none has.
    """
    ready = [dump.layers[name] for name in names if dump.layers[name].expandable]
    if not ready:
        raise DumpError(
            f"{dump.source} cannot be expanded: none of {', '.join(names[:3])} has a weight and an input to cluster"
        )
    return ready
