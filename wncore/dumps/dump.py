"""Opening a dump: find its files, recognise its tensors, check that they fit together.

No tensor is read, but weights, or their scales, that two files hold are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wncore.dumps.axes import settle_axes
from wncore.dumps.header import read_header
from wncore.dumps.layer import Layer
from wncore.dumps.metadata import count_gram_tokens, merge_metadata, share_inputs, shared_inputs, stated_length, unread
from wncore.dumps.orientation import TRANSPOSED, transposed_shape, undecided
from wncore.dumps.quantised import Scaled, check_activations, dequantise
from wncore.dumps.recognition import Found, Piece, blame, recognise
from wncore.dumps.sequences import check_effect, check_sequences
from wncore.dumps.sources import by_number, find_files
from wncore.dumps.tensor import CHUNK, Tensor
from wncore.errors import DumpError, InputError, listed

EXPERTS = "wncore.expand"
"""Metadata of a file of sparse experts (`wncore.experts.files`), which is no dump."""


@dataclass(frozen=True)
class Dump:
    """The layers of one or more files, in the order of their names, numbers by value."""

    source: str
    layers: dict[str, Layer]
    metadata: dict[str, str]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    """What was passed over, and why."""


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
    files = find_files([Path(source) for source in sources])
    headers = [read_header(path) for path in files.held]
    for header in headers:
        if EXPERTS in header.metadata:
            raise DumpError(
                f"{header.path} holds sparse experts, no inputs or outputs; `wncore inspect` says more of it, `wncore "
                f"verify` checks it"
            )
        for name in sorted(files.held[header.path] - header.tensors.keys())[:1]:
            raise DumpError(f"{header.path} lacks {name[:80]}, which its index says it holds; copy the file again")
    metadata = merge_metadata(headers)
    found = Found(notes=list(files.notes))
    used: list[Piece] = []
    for header in headers:
        for name, entry in header.tensors.items():
            reason = files.passed_over(header.path, entry)
            if reason is None:
                used.append((header, entry))
            else:
                found.notes.append(f"{name[:80]} in {header.path.name} is passed over: {reason}")
    names = {entry.name for _, entry in used}
    for header, entry in used:
        recognise(header, entry.name, entry, names, found)
    try:
        layers = _layers(found, metadata, length)
        if not layers:
            raise DumpError(
                f"{', '.join(map(str, sources))} holds no layer: no floating tensor of two or more axes; capture one"
            )
    except InputError as error:
        raise _noting(error, found.notes) from None
    return Dump(", ".join(map(str, sources)), layers, metadata, tuple(files.held), tuple(found.notes))


def _noting(error: InputError, notes: Sequence[str]) -> InputError:
    """Add to an error what was passed over: it may be the reason."""
    for note in notes:
        error.add_note(note)
    return error


def _layers(found: Found, metadata: dict[str, str], length: int | None) -> dict[str, Layer]:
    """Make layers of the tensors that were found, in the order of their names, numbers by value."""
    stated = stated_length(metadata)
    if stated and length and stated != length:
        raise InputError(f"the dump says that a sequence has {stated} tokens, and you say {length}; leave --length out")
    option, length = length, stated or length
    shared = shared_inputs(metadata)
    found.notes += settle_axes(found.parts, found.masks, length, shared)
    layers: dict[str, Layer] = {}
    for name, parts in found.parts.items():
        if parts.keys() == {"bias"} and name not in found.faults:  # of a norm, say
            found.notes.append(f"{parts['bias'][0][1].name} is passed over: nothing else of {name} is there")
        else:
            layers[name] = _layer(name, parts, found, length)
    _note_riders(layers, found)
    found.notes += [*unread(metadata), *count_gram_tokens(layers, metadata)]
    found.notes += share_inputs(layers, shared, found.spoiled)
    kept = {name: _checked(layers[name]) for name in sorted(layers, key=by_number)}
    found.notes += [*check_effect(kept.values(), option, stated, found.masks), *undecided(kept.values())]
    return kept


def _note_riders(layers: dict[str, Layer], found: Found) -> None:
    """Say which weights were multiplied by their scales, and what else goes with weights and is not used."""
    scaled = {name for name, layer in layers.items() if isinstance(layer.weight, Scaled)}
    if scaled:
        found.notes.append(f"float8 weights times their scales: {listed(sorted(scaled, key=by_number))}")
    for name, riders in found.riders.items():
        for one, _, entry in riders:
            if not (name in scaled and one.role == "scale"):
                found.notes.append(f"{entry.name} is passed over: it goes with a quantised tensor of {name}")


def _layer(name: str, parts: dict[str, list[Piece]], found: Found, length: int | None) -> Layer:
    """Make a layer of its tensors; what is wrong with it concerns no other."""
    tensors: dict[str, Tensor] = {}
    riders, mask = found.riders.get(name, []), None
    try:
        for part, pieces in parts.items():
            tensors[part] = _tensor(part, [piece for piece in pieces if 0 not in piece[1].shape] or pieces[:1])
        source = tensors.get("output") or tensors.get("input")
        mask = _mask(source, found.masks) if source is not None and source.rows * source.columns else None
        check_activations(tensors, riders)
    except DumpError as error:
        blame(found, name, None, str(error))
    weight = tensors.pop("weight", None)
    try:
        weight = dequantise(name, weight, riders)
    except DumpError as error:
        weight = None  # its numbers are none, and nobody shall take them for some
        blame(found, name, "weight", str(error))
    x, y, b, h = (tensors.get(part) for part in ("input", "output", "bias", "gram"))
    return Layer(name, x, y, weight, b, h, mask=mask, sequence_length=length, fault=found.faults.get(name))


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
    whole = Tensor("mask", tuple([piece for piece in masks if piece[1].rows] or masks[:1]))
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
        demand(b.columns == 1, f"bias has {b.columns} columns, and one is needed")
        demand(layer.neurons in (0, b.rows), f"bias has {b.rows} entries for {layer.neurons} neurons")
    if h is not None:
        width = w.columns if w is not None else x.columns if x is not None else h.columns
        demand(h.rows == h.columns == width, f"gram is {h.rows} x {h.columns} for {width} inputs")
    if layer.mask is not None:  # that of the layer whose input is read may be of another length
        demand(layer.mask.rows == layer.rows, f"the mask has {layer.mask.rows} positions for {layer.rows} tokens")
    check_sequences(layer)
