"""The tables that ``wncore prune`` prints."""

from collections.abc import Sequence

import numpy as np

from wncore.errors import InputError
from wncore.layer_pruning import LayerPruning
from wncore.pruning.patterns import SemiStructured
from wncore_cli import echo
from wncore_cli.tables import number, table


def show(prunings: Sequence[Sequence[LayerPruning]], top: int) -> None:
    """Print how it was pruned, what became of each layer, and the neurons that lost most."""
    echo(f"{settings_line(prunings)}\n\n{layers_table(prunings)}")
    if top and len(prunings[0]) == 1:
        echo(f"\n{worst_table([results[0] for results in prunings], top)}")


def warnings_of(prunings: Sequence[Sequence[LayerPruning]]) -> list[str]:
    """Say what was not sound."""
    notes = [f"{results[0].name}: {warning}" for results in prunings for warning in results[0].warnings]
    if any(results[0].holdout_tokens == 0 for results in prunings):
        notes.append("no tokens were held out: the errors are those on the calibration tokens alone")
    return notes


def demand_sound(results: Sequence[LayerPruning], strict: bool) -> None:
    """Raise the first warning of a layer, if that is what was asked for."""
    if strict and results[0].warnings:
        raise InputError(f"{results[0].name}: {results[0].warnings[0]}; without --strict that is a note")


def settings_line(prunings: Sequence[Sequence[LayerPruning]]) -> str:
    """One line: the method, where it compares, what N:M means, how much was held out."""
    spec = prunings[0][0].spec
    parts = [spec.method + (" + re-solve" if spec.resolved else "") + (f", {spec.bits} bits" if spec.bits else "")]
    if any(not isinstance(pattern, SemiStructured) for pattern in spec.patterns):
        parts.append(f"compared within each {spec.compared}" if spec.compared != "layer" else "compared in the layer")
    parts += [
        f"{pattern} keeps {pattern.kept} of every {pattern.of} consecutive inputs"
        for pattern in spec.patterns
        if isinstance(pattern, SemiStructured)
    ]
    parts.append(f"{spec.damping} ridge")
    return "; ".join(parts)


def layers_table(prunings: Sequence[Sequence[LayerPruning]]) -> str:
    """A row for each layer and pattern: zeros, errors in and out of sample, ridge, median distances."""
    scored = any(one.wasserstein_dense is not None for results in prunings for one in results)
    conditions = any(one.condition is not None for results in prunings for one in results)
    head = ["layer", "shape", "asked", "zeros", "error", "held out", "ridge"]
    head += ["condition"] * conditions + ["median WD", "pruned"] * scored
    rows = []
    for one in (one for results in prunings for one in results):
        m, d = one.shape
        ridge = f"{one.ridge:.3g}" + ("*" if one.raised else "")
        row = [one.name, f"{m}x{d}", str(one.pattern), f"{one.zeros / (m * d):.4%}", number(one.relative_error)]
        row += [number(one.relative_error_holdout), ridge]
        row += ["-" if one.condition is None else f"{one.condition:.3g}"] * conditions
        row += [number(_median(one.wasserstein_dense)), number(_median(one.wasserstein_sparse))] if scored else []
        rows.append(row)
    raised = any(one.raised for results in prunings for one in results)
    return table(head, rows) + ("\n* raised until the matrix could be factorised" if raised else "")


def worst_table(pruned: Sequence[LayerPruning], top: int) -> str:
    """The neurons of all layers that lose most, on the tokens held out where there are any."""
    ranked = []
    for one in pruned:
        judged = one.neuron_error if one.neuron_error_holdout is None else one.neuron_error_holdout
        ranked += [(judged[i], one, i) for i in np.argsort(-judged, kind="stable")[:top]]
    ranked.sort(key=lambda item: -item[0])
    scored = any(one.wasserstein_dense is not None for one in pruned)
    head = ["largest error", "neuron", "error", "held out", "zeros", *(["WD", "pruned"] if scored else [])]
    rows = []
    for _, one, i in ranked[:top]:
        held = None if one.neuron_error_holdout is None else one.neuron_error_holdout[i]
        row = [one.name, f"{i}", number(one.neuron_error[i]), number(held), f"{one.neuron_sparsity[i]:.1%}"]
        for column in (one.wasserstein_dense, one.wasserstein_sparse) if scored else ():
            row.append(number(None if column is None else column[i]))
        rows.append(row)
    return table(head, rows)


def _median(values: np.ndarray | None) -> float | None:
    live = [] if values is None else values[np.isfinite(values)]
    return float(np.median(live)) if len(live) else None
