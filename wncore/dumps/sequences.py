"""Whether shapes, masks and the stated length of a dump agree on what a sequence is, and each has an effect."""

from collections.abc import Iterable, Sequence

from wncore.dumps.axes import many, sequence_tokens, several
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


def _demand_alike(layer: Layer, one: Tensor, other: Tensor) -> None:
    """Demand that sequences are of one length where the axes of the first tensor tell it, and anything of the other."""
    entries = [entry for _, entry in other.pieces]
    lengths = sequence_tokens(entries, layer.sequence_length)
    if len(one.pieces) != len(entries):
        return
    for (_, a), b, length in zip(one.pieces, entries, lengths, strict=True):
        length = length or (many(b)[-1] if len(many(b)) > 1 else None)
        if length and len(many(a)) > 1 and many(a)[-1] != length and a.rows == b.rows:
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
    sources = [source for layer in layers if (source := layer.output or layer.input) is not None]
    if sources:
        return _layout_notes(sources, option or stated, "--length" if option else "wncore.sequence_length")
    if option:
        raise InputError(f"--length {option} has no effect: no layer has inputs or outputs; leave it out")
    idle = [name for name, there in (("wncore.sequence_length", stated), ("tokens.mask", masked)) if there]
    return [f"{' and '.join(idle)}: without effect, since no layer has inputs or outputs"] if idle else []


def _layout_notes(sources: Sequence[Tensor], stated: int | None, named: str) -> list[str]:
    notes: list[str] = []
    overruled: list[Entry] = []
    broken: list[Entry] = []
    unknown: list[Entry] = []
    for source in sources:
        entries = [entry for _, entry in source.pieces]
        for entry, length in zip(entries, sequence_tokens(entries, stated), strict=True):
            if stated and length != stated:
                overruled.append(entry)
            elif stated and entry.rows % stated:
                broken.append(entry)
            elif not length and len(entry.leading) > 1:
                unknown.append(entry)
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
    if unknown:
        notes.append(
            f"{several([entry.name for entry in unknown])}: the axes {unknown[0].shape} do not tell how long a "
            f"sequence is; --length says it"
        )
    return notes
