"""Which axes of an input or an output are tokens, and which are channels.

(token, channel), (batch, position, channel), (batch, position, head, channel): the heads of a token lie beside each
other, as a projection puts them out. A weight, a mask or the other tensor of the layer may say that it is otherwise.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from wncore.dumps.header import Entry, Header
from wncore.errors import listed

Piece = tuple[Header, Entry]
Parts = dict[str, list[Piece]]
"""The pieces of each tensor of a layer."""

PLAIN = 3
"""The most axes of which only the last can be channels."""
_SCORES, _CACHE = "(batch, head, query, key), of attention", "(batch, head, position, channel), of a cache"
OTHERS = {
    "hook_attn_scores": _SCORES,
    "hook_pattern": _SCORES,
    "attn_scores": _SCORES,
    "attn_weights": _SCORES,
    "attn_probs": _SCORES,
    "attention_scores": _SCORES,
    "attention_weights": _SCORES,
    "attention_probs": _SCORES,
    "attentions": _SCORES,
    "past_key_values": _CACHE,
    "key_cache": _CACHE,
    "value_cache": _CACHE,
}
"""Axes that the shape does not tell, by a part of the name: of TransformerLens, and of transformers."""


def settle_axes(
    layers: dict[str, Parts], masks: list[Piece], length: int | None, shared: Mapping[str, str]
) -> list[str]:
    """Count heads as channels, in place, and take out tensors whose axes cannot be told; return notes on both.

    `shared` names layers, and for each the layer whose input it reads: what any reader tells of it counts.
    """
    notes: list[str] = []
    guessed: dict[int, list[Entry]] = {}
    knowledge = _knowledge(layers, masks, shared)
    for name, parts in list(layers.items()):
        before = len(parts)
        for part in [part for part in ("output", "input") if part in parts]:
            first = max((entry for _, entry in parts[part]), key=lambda entry: len(entry.shape))
            axes = len(first.shape)
            if axes < PLAIN:
                continue
            known, pieces = knowledge(name, part), parts.pop(part)
            other = next((axes for word, axes in OTHERS.items() if word in first.name.split(".")), None)
            if other and known.width is None:
                notes.append(f"{first.name} is passed over: its axes are taken for {other}; no neuron's outputs")
                continue
            folded = _fold(pieces, known)
            if folded is None:
                notes.append(
                    f"{first.name} is passed over: of its axes {first.shape} nothing tells which are tokens and which "
                    f"are channels; store (batch, position, channel)"
                )
                continue
            parts[part] = folded
            meant = _otherwise(folded)
            if meant is None or not known.fit(meant):
                continue
            if not known.fit(folded):
                notes.append(f"{first.name}: the axes {first.shape} would fit {MEANT[axes]}")
            elif not _settled(first, length):
                guessed.setdefault(axes, []).append(first)
        if before and not parts:
            del layers[name]
    return notes + [_guess(entries) for entries in guessed.values()]


MEANT = {
    PLAIN: "as (token, channel, 1); leave the last axis out",
    PLAIN + 1: "as (batch, head, position, channel); swap the second and the third",
}
"""How axes may have been meant, by their number."""


@dataclass(frozen=True)
class Known:
    """The numbers of channels and of tokens that other tensors tell, None where they do not."""

    width: int | None = None
    rows: int | None = None

    def fit(self, pieces: list[Piece]) -> bool:
        """Whether a tensor has these numbers."""
        return (self.width is None or all(entry.columns == self.width for _, entry in pieces)) and (
            self.rows is None or sum(entry.rows for _, entry in pieces) == self.rows
        )


def _knowledge(layers: dict[str, Parts], masks: list[Piece], shared: Mapping[str, str]) -> Callable[[str, str], Known]:
    """Return what says what is known of the output or the input of a layer, from its weight, say, or from masks."""
    readers = {name: [parts] for name, parts in layers.items()}
    for name, owner in shared.items():
        if name in layers and owner in layers and "input" not in layers[name]:
            readers[owner].append(layers[name])

    def known(name: str, part: str) -> Known:
        own = layers[name]
        if part == "input":
            family, beside = readers[name], [one.get("output") for one in readers[name]]
        else:
            lender = own if "input" in own else layers.get(shared.get(name, ""), {})
            family, beside = [own], [lender.get("input")]
        width = next((count for one in family if (count := _widths(one).get(part)) is not None), None)
        most = max((entry.shape for _, entry in own[part]), key=len)
        # three axes are in doubt if there is one channel; with four, one channel would fit any number of tokens
        doubtful = len(most) == PLAIN if most[-1] == 1 else len(most) > PLAIN
        return Known(width, _rows(own[part], filter(None, beside), masks) if doubtful else None)

    return known


def _fold(pieces: list[Piece], known: Known) -> list[Piece] | None:
    """Choose the axes that are channels by the numbers of channels and of tokens that are known; None if nothing tells.

    Where nothing fits, the layer's tensors disagree, which is said elsewhere.
    """
    axes = max(len(entry.shape) for _, entry in pieces)
    if axes <= PLAIN:
        return pieces
    readings = [_with_channels(pieces, count) for count in ((2, 1) if axes == PLAIN + 1 else range(1, axes))]
    for reading in readings:
        if known.fit(reading):
            unsure = known == Known() and (axes > PLAIN + 1 or reading[0][1].shape[-1] == 1)
            return None if unsure else reading
    return readings[0]


def _with_channels(pieces: list[Piece], count: int) -> list[Piece]:
    return [(head, replace(entry, channels=count) if len(entry.shape) > PLAIN else entry) for head, entry in pieces]


def _otherwise(pieces: list[Piece]) -> list[Piece] | None:
    """Return a tensor as its axes may have been meant, too, heads before positions or an axis too many; None if not."""

    def meant(entry: Entry) -> Entry:
        shape = entry.shape
        if len(shape) == PLAIN + 1 and entry.channels == 2 and max(shape[1:3]) > 1:
            return replace(entry, shape=(shape[0], shape[2], shape[1], shape[3]))
        if len(shape) == PLAIN and shape[-1] == 1 and shape[1] > 1:
            return replace(entry, shape=shape[:-1])
        return entry

    found = [(header, meant(entry)) for header, entry in pieces]
    return found if any(one is not other for (_, one), (_, other) in zip(found, pieces, strict=True)) else None


def _settled(entry: Entry, length: int | None) -> bool:
    """Whether the stated length tells which of the axes is the position."""
    places = [size == length for size in entry.shape[1:-1]]
    return sum(places) == 1


def _guess(entries: list[Entry]) -> str:
    one, names = entries[0], several([entry.name for entry in entries])
    if len(one.shape) == PLAIN:
        return (
            f"{names}: the axes {one.shape} are read as (batch, position, channel), {one.rows} tokens of one channel; "
            f"if that is wrong, store (token, channel)"
        )
    one = replace(one, channels=2)
    return (
        f"{names}: the axes {one.shape} are read as (batch, position, head, channel), {one.rows} tokens of "
        f"{one.columns} neurons; if that is wrong, store (batch, position, channel)"
    )


def _widths(parts: Parts) -> dict[str, int]:
    """Return the numbers of channels that are known from weight, Gram matrix or bias."""
    first = {part: pieces[0][1] for part, pieces in parts.items()}
    found = {"output": first["bias"].rows} if "bias" in first else {}
    if "gram" in first:
        found["input"] = first["gram"].columns
    if "weight" in first:
        found |= {"output": first["weight"].rows, "input": first["weight"].columns}
    return found


def _rows(pieces: list[Piece], beside: Iterable[list[Piece]], masks: list[Piece]) -> int | None:
    """Return the number of tokens that is known from the tensors beside one, if they are plain, or from masks."""
    for other in beside:
        if all(len(entry.shape) <= PLAIN for _, entry in other):
            return sum(entry.rows for _, entry in other)
    files = {header.path for header, _ in pieces}
    own = [entry.rows for header, entry in masks if header.path in files]
    counted = own if len(own) == len(files) else [entry.rows for _, entry in masks]
    return sum(counted) if counted else None


def several(names: Iterable[str]) -> str:
    """Name the first three, each once, and say how many more there are."""
    return listed(list(dict.fromkeys(names)), 3)


def many(entry: Entry) -> list[int]:
    """Return the sizes of the axes of tokens, those of one left out."""
    return [size for size in entry.leading if size > 1]


def own_length(entry: Entry) -> int | None:
    """Return the tokens of a sequence that the shape tells: those of the last axis of tokens, if there are two."""
    sizes = many(entry)
    if len(sizes) == 1:  # (1, n): one sequence; (n, 1): tokens, one by one
        return sizes[0] if len(entry.leading) > 1 and entry.leading[-1] == sizes[0] else None
    return sizes[1] if len(sizes) == 2 else None


def sequence_tokens(entries: Sequence[Entry], stated: int | None) -> list[int | None]:
    """Return the tokens of a sequence in each piece of a tensor; None if nothing tells them.

    Axes of sequences and positions come first. A stated length cuts plain tokens, and single rows, in which sequences
    may be packed.
    """
    told = any(len(many(entry)) > 1 for entry in entries)

    def length(entry: Entry) -> int | None:
        if told and len(entry.leading) > 1:
            return own_length(entry) or (stated if stated in many(entry)[-1:] else None)
        return stated or own_length(entry)

    return [length(entry) for entry in entries]
