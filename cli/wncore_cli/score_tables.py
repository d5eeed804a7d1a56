"""The tables that ``wncore score`` prints."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wncore.results import change
from wncore.scoring import LayerScore
from wncore_cli import printable
from wncore_cli.tables import number, table


def _flags(one: LayerScore) -> dict[str, NDArray[np.bool_] | None]:
    """Say what neurons of a layer can be flagged for, and which are."""
    hidden = one.constant & (one.std > 0)
    return {
        "are constant": one.constant & ~hidden,
        f"vary by no more than rounding may, {one.dtype} cannot tell them from constant": hidden,
        "change without the first token of a sequence": one.first_token,
        "have bounds more than 0.02 apart, score them exactly": one.wide_bounds,
    }


def layers_table(scores: Sequence[LayerScore]) -> str:
    """A row a layer: neurons, tokens, median and largest distance, noise floor, share above it."""
    head = ["layer", "neurons", "tokens", "median WD", "largest WD", "noise floor", "above it"]
    rows = []
    for one in scores:
        live = one.wasserstein[~one.constant]
        middle, largest = (float(np.median(live)), float(live.max())) if len(live) else (None, None)
        share = number(100 * one.share_above_floor(), 1)
        row = [one.name, f"{one.neurons}", f"{one.tokens}", number(middle), number(largest), number(one.noise_floor)]
        rows.append([*row, share if share == "-" else f"{share}%"])
    return table(head, rows)


def top_table(scores: Sequence[LayerScore], top: int) -> str:
    """The most entangled neurons of all layers, with errors and, where they are known, bounds and difficulty."""
    ranked = sorted(((one.wasserstein[i], one, i) for one in scores for i in one.top(top)), key=lambda item: -item[0])
    bounded = any((one.wasserstein_low != one.wasserstein_high)[~one.constant].any() for one in scores)
    mapped = any(one.mapping_difficulty is not None for one in scores)
    head = ["most entangled", "neuron", "WD", "+-"]
    head += ["low", "high"] if bounded else []
    head += ["MD", "MD shuffled"] if mapped else []
    rows = []
    for distance, one, i in ranked[:top]:
        row = [one.name, f"{i}", number(distance), number(one.wasserstein_error[i])]
        row += [number(one.wasserstein_low[i]), number(one.wasserstein_high[i])] if bounded else []
        if mapped:
            pair = (one.mapping_difficulty, one.mapping_difficulty_shuffled)
            row += [number(None if column is None else column[i], 2) for column in pair]
        rows.append([*row, number(one.skewness[i], 2), number(one.excess_kurtosis[i], 2)])
    if not rows:
        hidden = sorted({one.dtype for one in scores if one.std.any()})
        told = f", as far as {' and '.join(hidden)} can tell" if hidden else ""
        return f"no neuron has a distance: all are constant{told}"
    return table([*head, "skewness", "kurtosis"], rows)


def change_table(scores: Sequence[LayerScore], against: dict[str, LayerScore], top: int) -> str:
    """How each layer changes in a second dump, and the neurons that change most.

    The errors are those of independent samples; on the same tokens in both dumps the true ones are smaller.
    """
    head = ["change", "tokens", "against", "noise floor", "against", "median", "falls for"]
    summary, ranked = [], []
    for one in (one for one in scores if one.name in against):
        other = against[one.name]
        delta = change(one, other)
        known = np.flatnonzero(np.isfinite(delta))
        middle = float(np.median(delta[known])) if len(known) else None
        falls = f"{np.mean(delta[known] < 0):.1%}" if len(known) else "-"
        floors = [number(one.noise_floor), number(other.noise_floor)]
        summary.append([one.name, f"{one.tokens}", f"{other.tokens}", *floors, number(middle), falls])
        ranked += [(delta[i], one, other, i) for i in known[np.argsort(-np.abs(delta[known]), kind="stable")][:top]]
    ranked.sort(key=lambda item: -abs(item[0]))
    rows = []
    for gap, one, other, i in ranked[:top]:
        error = float(np.hypot(one.wasserstein_error[i], other.wasserstein_error[i]))
        values = [number(one.wasserstein[i]), number(other.wasserstein[i]), f"{gap:+.4f}", number(error)]
        rows.append([one.name, f"{i}", *values])
    parts = [table(head, summary)]
    if rows:
        parts.append(table(["most changed", "neuron", "WD", "against", "change", "+-"], rows))
    return "\n\n".join(parts)


def flag_lines(scores: Sequence[LayerScore]) -> list[str]:
    """A sentence for each flag that neurons of a layer carry."""
    lines = []
    for one in scores:
        for meaning, values in _flags(one).items():
            found = np.flatnonzero(values) if values is not None else []
            if len(found):
                shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
                lines.append(f"{printable(one.name)}: {len(found)} of {one.neurons} neurons {meaning}: {shown}")
    return lines
