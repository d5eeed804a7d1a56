"""Whether shapes, masks and the stated length of a dump agree on what a sequence is, and each has an effect."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate

from wncore.dumps.axes import Piece, many, sequence_tokens, several
from wncore.dumps.header import Entry
from wncore.dumps.layer import Layer
from wncore.dumps.tensor import Tensor
from wncore.errors import DumpError, InputError


def check_sequences(layer: Layer) -> None:
    """Demand that the tensors and the mask of a layer lay its tokens out alike.

    Raises
    ------
    DumpError
        If they do not, or the stated length tells that heads come before positions.
    """
    for tensor in filter(None, (layer.output, layer.input)):
        for _, entry in tensor.pieces:
            if entry.channels == 2 and entry.shape[1] != layer.sequence_length == entry.shape[2]:
                raise DumpError(
                    f"{layer.name}: {tensor.name} has the axes {entry.shape}, to be (batch, position, head, channel), "
                    f"and a sequence has {entry.shape[2]} tokens; swap the second and the third"
                )
    source = layer.output or layer.input
    if source is None:
        return
    lengths = sequence_tokens(source.entries, layer.sequence_length)
    used = [length or _told(entry) for entry, length in zip(source.entries, lengths, strict=True)]
    others = [other for other in (layer.input, layer.mask) if other is not None and other is not source]
    for other in others:
        _demand_alike(layer, other, source, used)
    if len(others) == 2:  # the output may tell nothing
        _demand_alike(layer, others[1], others[0], [_told(entry) for entry in others[0].entries])


def _told(entry: Entry) -> int | None:
    """Return the tokens of a sequence by the axes of batch and position; a single row may be many sequences."""
    sizes = many(entry)
    return sizes[-1] if len(sizes) > 1 and entry.rows else None


def _demand_alike(layer: Layer, one: Tensor, other: Tensor, lengths: Sequence[int | None]) -> None:
    """Demand that sequences of the other tensor, of these lengths by piece, begin where axes of the first tell it."""
    for i, j, shift in _side_by_side(one.entries, other.entries):
        mine, entry, length = one.entries[i], other.entries[j], lengths[j]
        told = _told(mine)
        if told and length and told != length:
            raise DumpError(
                f"{layer.name}: by the axes {mine.shape} of {one.name} a sequence has {told} tokens, and {length} in "
                f"{entry.name} {entry.shape}; swap axes of one of them, or give the right --length"
            )
        if told and length and shift % length:
            raise DumpError(
                f"{layer.name}: a file of {entry.name} {entry.shape} begins within a sequence of {told} tokens, by the "
                f"axes {mine.shape} of {one.name}; cut files between sequences"
            )


def _side_by_side(one: Sequence[Entry], other: Sequence[Entry]) -> Iterator[tuple[int, int, int]]:
    """Yield the places of pieces of two tensors that share tokens, and how much later the second piece begins."""
    ends, others = (list(accumulate(entry.rows for entry in entries)) for entries in (one, other))
    i = j = 0
    while i < len(one) and j < len(other):
        if one[i].rows and other[j].rows:
            yield i, j, (others[j] - other[j].rows) - (ends[i] - one[i].rows)
        i, j = i + (ends[i] <= others[j]), j + (others[j] <= ends[i])


def check_effect(
    layers: Collection[Layer], option: int | None, stated: int | None, masks: Sequence[Piece]
) -> list[str]:
    """Say where sequences are unknown, not whole, or told by another tensor, and what has no effect.

    Raises
    ------
    InputError
        If the length was given as an option, and no layer has tokens.
    """
    if any(layer.output or layer.input for layer in layers):
        sound = [layer for layer in layers if layer.fault is None and layer.empty is None]
        named = "--length" if option else "wncore.sequence_length"
        return _layout_notes(sound, option or stated, named) + _idle_masks(layers, masks)
    if option:
        raise InputError(f"--length {option} has no effect: no layer has inputs or outputs; leave it out")
    idle = [name for name, there in (("wncore.sequence_length", stated), ("tokens.mask", masks)) if there]
    return [f"{' and '.join(idle)}: without effect, since no layer has inputs or outputs"] if idle else []


def _layout_notes(layers: Iterable[Layer], stated: int | None, named: str) -> list[str]:
    notes: list[str] = []
    overruled: list[Entry] = []
    broken: list[Entry] = []
    unknown: list[Entry] = []
    rows: list[Entry] = []
    lent: dict[tuple[str, tuple[int | None, ...]], list[tuple[Tensor, Tensor]]] = {}
    for layer in layers:
        source, teller = layer.output or layer.input, layer.teller
        if source is None or teller is None:
            continue
        if teller is not source:
            lent.setdefault((teller.part, tuple(dict.fromkeys(layer.lengths))), []).append((source, teller))
        single = not stated and not any(map(_told, teller.entries))
        for entry, length in zip(teller.entries, layer.lengths, strict=True):
            if stated and length != stated:
                overruled.append(entry)
            elif stated and entry.rows % stated:
                broken.append(entry)
            elif not length and len(entry.leading) > 1:
                unknown.append(entry)
            elif length and single:
                rows.append(entry)
    for (_, lengths), pairs in lent.items():
        one = pairs[0][1].entries[0]
        notes.append(
            f"{several([source.name for source, _ in pairs])}: a sequence has {' or '.join(map(str, lengths))} tokens, "
            f"by the axes {one.shape} of {one.name}"
        )
    if rows:
        notes.append(
            f"{several([entry.name for entry in rows])}: the row {rows[0].shape} is read as one sequence of "
            f"{rows[0].rows} tokens; if it holds several, --length says how long they are"
        )
    if overruled:
        notes.append(
            f"{several([entry.name for entry in overruled])}: {named} {stated} has no effect, by the axes "
            f"{overruled[0].shape}; reshape or swap them if that is wrong"
        )
    if broken and stated:
        count = broken[0].rows
        notes.append(
            f"{several([entry.name for entry in broken])}: {count} tokens are no whole number of sequences of "
            f"{stated}, the length that {named} says; the last has {count % stated}"
        )
    if unknown:
        notes.append(
            f"{several([entry.name for entry in unknown])}: the axes {unknown[0].shape} do not tell how long a "
            f"sequence is; --length says it"
        )
    return notes


def _idle_masks(layers: Iterable[Layer], masks: Sequence[Piece]) -> list[str]:
    """Name the files whose masks serve no layer, because each file of its tokens has its own."""
    used = {header.path for layer in layers if layer.mask is not None for header, _ in layer.mask.pieces}
    idle = [header.path.name for header, entry in masks if header.path not in used and entry.rows]
    return (
        [f"tokens.mask in {several(idle)} has no effect: other files have the masks of all layers"]
        if used and idle
        else []
    )
