"""Which tensor of a dump is what of which layer, by its name, its type and its shape."""

from dataclasses import dataclass, field

from wncore.dumps.header import Entry, Header
from wncore.dumps.layer import as_column
from wncore.dumps.riders import Rider, passed_over, rider
from wncore.errors import DumpError

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
UNNAMED = "layer"
"""What a layer is called whose tensors are named just "input", "weight" and so on."""

Piece = tuple[Header, Entry]
RidingPiece = tuple[Rider, Header, Entry]


@dataclass
class Found:
    """Tensors by layer and part, as the files are read."""

    parts: dict[str, dict[str, list[Piece]]] = field(default_factory=dict[str, dict[str, list[Piece]]])
    masks: list[Piece] = field(default_factory=list[Piece])
    riders: dict[str, list[RidingPiece]] = field(default_factory=dict[str, list[RidingPiece]])
    """By layer, what goes with its weight, or with another of its tensors."""
    notes: list[str] = field(default_factory=list[str])
    faults: dict[str, str] = field(default_factory=dict[str, str])
    """By layer, what is wrong with its tensors."""
    spoiled: set[str] = field(default_factory=set[str])
    """Layers whose input, or whose mask, is at fault: nobody else may read it."""


def recognise(header: Header, name: str, entry: Entry, names: set[str], found: Found) -> None:
    """Sort a tensor into what was found; `names` are those of all tensors of the dump.

    Raises
    ------
    DumpError
        If it is called tokens.mask, and is none.
    """
    owner, _, suffix = name.rpartition(".")
    part = SUFFIXES.get(suffix)
    where = f"{name} in {header.path}"
    if name == MASK:
        if entry.dtype not in ("BOOL", "U8"):
            raise DumpError(f"{where} has type {entry.dtype}; a mask must be BOOL or U8, write it again")
        found.masks.append(as_column(header, entry))
        return
    riding, reason = rider(name, names), passed_over(name)
    if riding is not None:
        found.riders.setdefault(riding.layer or UNNAMED, []).append((riding, header, entry))
        if riding.role == "holder":
            found.parts.setdefault(riding.layer or UNNAMED, {})
        return
    if reason is not None:
        found.notes.insert(0, f"{name} is passed over: {reason}")  # first: whoever wrote it expects it to be used
        return
    if not entry.floating:
        if part is not None:
            what = f"{where} has type {entry.dtype}; a floating type is needed (dequantise it first)"
            blame(found, owner or UNNAMED, part, what)
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
            blame(found, layer, part, what)
            return
    pieces.append((header, entry))


def blame(found: Found, layer: str, part: str | None, what: str) -> None:
    """Note what is wrong with a part of a layer; it concerns no other, unless that reads the same input."""
    found.parts.setdefault(layer, {})
    found.faults.setdefault(layer, what)
    if part in ("input", None):
        found.spoiled.add(layer)
