"""Whether shapes, masks and the stated length of a dump agree on what a sequence is, and each has an effect."""

from collections.abc import Iterable, Sequence

from wncore.dumps.axes import many, overlaps, sequence_tokens, several, told_by
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
    if layer.input is not None and layer.output is not None:
        _demand_alike(layer, layer.input, layer.output)
    if layer.mask is not None and source is not None:
        _demand_alike(layer, layer.mask, source)
        if layer.input is not None and layer.input is not source:
            _demand_alike(layer, layer.mask, layer.input)


def _demand_alike(layer: Layer, one: Tensor, other: Tensor) -> None:
    """Demand that sequences are of one length where the axes of the first tensor tell it, and anything of the other."""
    lengths = sequence_tokens(other.entries, layer.sequence_length)
    for i, j, _ in overlaps(one.entries, other.entries):
        a, b, length = one.entries[i], other.entries[j], lengths[j]
        length = length or (many(b)[-1] if len(many(b)) > 1 else None)
        if length and len(many(a)) > 1 and many(a)[-1] != length:
            raise DumpError(
                f"{layer.name}: by the axes {a.shape} of {one.name} a sequence has {many(a)[-1]} tokens, and {length} "
                f"in {b.name} {b.shape}; swap axes of one of them, or give the right --length"
            )


def check_effect(layers: Iterable[Layer], option: int | None, stated: int | None, masked: bool) -> list[str]:
    """Say where sequences are unknown or not whole, and where a stated length or a mask has no effect.

    Raises
    ------
    InputError
        If the length was given as an option, and no layer has tokens.
    """
    read = [layer for layer in layers if layer.output or layer.input]
    if read:
        return _layout_notes(read, option or stated, "--length" if option else "wncore.sequence_length")
    if option:
        raise InputError(f"--length {option} has no effect: no layer has inputs or outputs; leave it out")
    idle = [name for name, there in (("wncore.sequence_length", stated), ("tokens.mask", masked)) if there]
    return [f"{' and '.join(idle)}: without effect, since no layer has inputs or outputs"] if idle else []


def _layout_notes(layers: Sequence[Layer], stated: int | None, named: str) -> list[str]:
    notes: list[str] = []
    overruled: list[Entry] = []
    broken: list[Entry] = []
    unknown: list[Entry] = []
    single: list[Entry] = []
    elsewhere: dict[tuple[str, tuple[int, ...]], list[Entry]] = {}
    for layer in layers:
        source = layer.output or layer.input
        assert source is not None  # the layers have tokens
        own, lengths, told = sequence_tokens(source.entries, stated), layer.lengths, list[Entry]()
        for entry, mine, length in zip(source.entries, own, lengths, strict=True):
            if stated and length != stated:
                overruled.append(entry)
            elif stated and entry.rows % stated:
                broken.append(entry)
            elif length and not mine:
                told.append(entry)
            elif not length and len(entry.leading) > 1:
                unknown.append(entry)
            elif length == entry.rows > 1 and not stated and len(source.entries) == 1 and entry.leading[:1] == (1,):
                single.append(entry)
        if told:
            teller = _teller(layer, source)
            elsewhere.setdefault((teller.name, teller.entries[0].shape), []).extend(told)
    if overruled:
        notes.append(
            f"{several([entry.name for entry in overruled])}: {named} {stated} has no effect, by the axes "
            f"{overruled[0].shape}; reshape or swap them if that is wrong"
        )
    if broken and stated:
        rows = broken[0].rows
        notes.append(
            f"{several([entry.name for entry in broken])}: {rows} tokens are no whole number of sequences of {stated}, "
            f"the length that {named} says; the last has {rows % stated}"
        )
    for (teller, shape), entries in elsewhere.items():
        notes.append(
            f"{several([entry.name for entry in entries])}: the axes {shape} of {teller} tell how long a sequence is; "
            f"if that is wrong, --length says it"
        )
    if single:
        notes.append(
            f"{several([entry.name for entry in single])}: the axes {single[0].shape} are read as one sequence of "
            f"{single[0].rows} tokens; if it holds several, --length says how long they are"
        )
    if unknown:
        notes.append(
            f"{several([entry.name for entry in unknown])}: the axes {unknown[0].shape} do not tell how long a "
            f"sequence is; --length says it"
        )
    return notes


def _teller(layer: Layer, source: Tensor) -> Tensor:
    """Return the tensor whose axes tell the sequences of one that does not."""
    others = [other for other in (layer.input, layer.mask) if other is not None and other is not source]
    return next(other for other in others if any(told_by(source.entries, other.entries)))
