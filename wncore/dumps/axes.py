"""Which axes of an input or an output are tokens, and which are channels.

(token, channel), (batch, position, channel), (batch, position, head, channel): the heads of a token lie beside each
other, as a projection puts them out. A weight, a mask or the other tensor of the layer may say that it is otherwise.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

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
    layers: dict[str, Parts], masks: list[Piece], length: int | None, shared: Mapping[str, str] | None = None
) -> list[str]:
    """Count heads as channels, in place, and take out tensors whose axes cannot be told; return notes on both.

    `shared` says of layers which other layer holds their input: their weights tell how wide it is, too.
    """
    notes: list[str] = []
    guessed: list[Entry] = []
    narrow: list[Entry] = []
    for name, parts in list(layers.items()):
        widths, before = _widths(parts), len(parts)
        if "input" in parts and "input" not in widths:
            widths |= _read_by(
                [layers[reader] for reader, owner in (shared or {}).items() if owner == name and reader in layers]
            )
        for part in [part for part in ("output", "input") if part in parts]:
            pieces, width = parts[part], widths.get(part)
            first = max((entry for _, entry in pieces), key=lambda entry: len(entry.shape))
            other = next((axes for word, axes in OTHERS.items() if word in first.name.split(".")), None)
            if len(first.shape) >= PLAIN and other and width is None:
                del parts[part]
                notes.append(f"{first.name} is passed over: its axes are taken for {other}; no neuron's outputs")
            elif len(first.shape) == PLAIN and first.shape[-1] == 1 and width is None:
                if _rows(part, parts, masks) is None:
                    narrow.append(first)
            elif len(first.shape) > PLAIN:
                rows = None if first.shape[-1] == 1 else _rows(part, parts, masks)
                if rows is not None and _swapped(pieces, rows):
                    del parts[part]
                    notes.append(
                        f"{first.name} is passed over: of its axes {first.shape} the first and the third give the "
                        f"{rows} tokens of the layer; swap the second and the third, to store (batch, position, head, "
                        f"channel)"
                    )
                    continue
                folded = _fold(pieces, width, rows)
                if folded is None:
                    del parts[part]
                    notes.append(
                        f"{first.name} is passed over: of its axes {first.shape} nothing tells which are tokens and "
                        f"which are channels; store (batch, position, channel)"
                    )
                    continue
                parts[part] = folded
                if width is None and rows is None and (first.shape[1] == length) == (first.shape[2] == length):
                    guessed.append(first)
        if before and not parts:
            del layers[name]
    if guessed:
        one = replace(guessed[0], channels=2)
        notes.append(
            f"{several([entry.name for entry in guessed])}: the axes {one.shape} are read as (batch, position, head, "
            f"channel), {one.rows} tokens of {one.columns} neurons; if that is wrong, store (batch, position, channel)"
        )
    if narrow:
        one = narrow[0]
        notes.append(
            f"{several([entry.name for entry in narrow])}: the axes {one.shape} are read as (batch, position, "
            f"channel), {one.rows} tokens of one neuron; if that is wrong, store (token, channel)"
        )
    return notes


def _read_by(readers: Sequence[Parts]) -> dict[str, int]:
    """Return the number of channels of an input, if a layer that reads it has a weight."""
    known = [parts["weight"][0][1].columns for parts in readers if "weight" in parts]
    return {"input": known[0]} if known else {}


def _swapped(pieces: list[Piece], rows: int) -> bool:
    """Whether so many tokens are the first and the third of four axes, and no other choice of axes gives as many."""
    if any(len(entry.shape) != PLAIN + 1 for _, entry in pieces):
        return False
    counts = {count: sum(entry.rows for _, entry in _with_channels(pieces, count)) for count in (1, 2)}
    return rows == sum(entry.shape[0] * entry.shape[2] for _, entry in pieces) and rows not in counts.values()


def _fold(pieces: list[Piece], width: int | None, rows: int | None) -> list[Piece] | None:
    """Choose the axes that are channels by the number of channels, or of rows, that are known; None if nothing tells.

    Where nothing fits, the layer's tensors disagree, which is said elsewhere.
    """
    axes = max(len(entry.shape) for _, entry in pieces)
    readings = [_with_channels(pieces, count) for count in ((2, 1) if axes == PLAIN + 1 else range(1, axes))]
    for reading in readings:
        if (width is None or all(entry.columns == width for _, entry in reading)) and (
            rows is None or sum(entry.rows for _, entry in reading) == rows
        ):
            unsure = width is None and rows is None and (axes > PLAIN + 1 or reading[0][1].shape[-1] == 1)
            return None if unsure else reading
    return readings[0]


def _with_channels(pieces: list[Piece], count: int) -> list[Piece]:
    return [(head, replace(entry, channels=count) if len(entry.shape) > PLAIN else entry) for head, entry in pieces]


def _widths(parts: Parts) -> dict[str, int]:
    """Return the numbers of channels that are known from weight, Gram matrix or bias."""
    first = {part: pieces[0][1] for part, pieces in parts.items()}
    found = {"output": first["bias"].rows} if "bias" in first else {}
    if "gram" in first:
        found["input"] = first["gram"].columns
    if "weight" in first:
        found |= {"output": first["weight"].rows, "input": first["weight"].columns}
    return found


def _rows(part: str, parts: Parts, masks: list[Piece]) -> int | None:
    """Return the number of tokens that is known from the layer's other tensor, if that is plain, or from masks."""
    other = parts.get("input" if part == "output" else "output", [])
    if other and all(len(entry.shape) <= PLAIN for _, entry in other):
        return sum(entry.rows for _, entry in other)
    files = {header.path for header, _ in parts[part]}
    own = [entry.rows for header, entry in masks if header.path in files]
    counted = own if len(own) == len(files) else [entry.rows for _, entry in masks]
    return sum(counted) if counted else None


def several(names: Iterable[str]) -> str:
    """Name the first three, each once, and say how many more there are."""
    return listed(list(dict.fromkeys(names)), 3)


def overlaps(entries: Sequence[Entry], others: Sequence[Entry]) -> Iterator[tuple[int, int, int]]:
    """Yield pieces of two tensors that share tokens, by their place: (one, other, tokens of the other before the one).

    Nothing if the tensors differ in their tokens.
    """
    if sum(entry.rows for entry in entries) != sum(entry.rows for entry in others):
        return
    i = j = before = begun = 0
    while i < len(entries) and j < len(others):
        if entries[i].rows and others[j].rows:
            yield i, j, before - begun
        if before + entries[i].rows <= begun + others[j].rows:
            before, i = before + entries[i].rows, i + 1
        else:
            begun, j = begun + others[j].rows, j + 1


def told_by(entries: Sequence[Entry], others: Sequence[Entry]) -> list[int | None]:
    """Return the tokens of a sequence in each piece of a tensor as the axes of another tell them: whole sequences."""
    found: dict[int, set[int | None]] = {}
    for i, j, before in overlaps(entries, others):
        sizes = many(others[j])
        whole = len(sizes) > 1 and before % sizes[-1] == 0 and entries[i].rows % sizes[-1] == 0
        found.setdefault(i, set()).add(sizes[-1] if whole else None)
    return [found[i].copy().pop() if len(found.get(i, ())) == 1 else None for i in range(len(entries))]


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
    if all(len(many(entry)) < 2 for entry in entries):
        return [stated or own_length(entry) for entry in entries]
    return [own_length(entry) or (stated if stated in many(entry)[-1:] else None) for entry in entries]
