"""The tables that ``wncore expand`` prints."""

from collections.abc import Iterator, Sequence

import numpy as np

from wncore.experts.disentanglement import Change, changes, wasserstein_neurons
from wncore.experts.expansion import LayerExpansion
from wncore_cli.tables import number, table

Runs = Sequence[Sequence[LayerExpansion]]
CONTROLS = {None: "", "random": ", random clusters", "stored": ", stored as one"}


def settings_line(found: Runs) -> str:
    """One line: how experts are pruned, and how tokens are clustered."""
    run = found[0][0]
    spec, clusters = run.spec.prune, run.spec.clusters
    parts = [spec.method + (" + re-solve" if spec.resolved else "") + (f", {spec.bits} bits" if spec.bits else "")]
    routed = [one for runs in found for one in runs if one.components and len(one.zeros) > 1]
    if routed:
        count = _span([one.components or 0 for one in routed], "d")
        what = f"{'balanced ' if clusters.balanced else ''}k-means in {count} component{'s' * (count != '1')}"
        parts.append(f"{what} ({_span([one.explained for one in routed], '.0%')} of the variance)")
        parts.append(f"{run.spec.prior:g} d tokens of prior")
        parts.append(f"seed {clusters.seed}")
    return "; ".join(parts)


def _span(values: Sequence[float], form: str) -> str:
    """Write the smallest and the largest of some numbers, once if they look alike."""
    return " to ".join(dict.fromkeys([format(min(values), form), format(max(values), form)]))


def layers_table(found: Runs) -> str:
    """A row for each layer and run: tokens by expert, errors in and out of sample, improvement over one expert."""
    head = ["experts of", "tokens each", "sparsity", "zeros", "stored", "error", "held out", "RI", "RI held out"]
    rows: list[list[str]] = []
    for run in _with_names(found, rows, len(head)):
        m, d = run.shape
        k, counts = len(run.zeros), run.tokens_per_expert
        spread = f"{counts.min()}" if k == 1 else f"{counts.min()}..{counts.max()}"
        rows.append(
            [
                _experts(run),
                spread,
                _pattern(run),
                f"{run.zeros.sum() / (k * m * d):.3%}",
                f"{run.stored / (m * d):.2f}x",
                number(run.errors.relative_error),
                number(run.errors.relative_error_holdout),
                number(_median(run.relative_improvement), 3),
                number(_median(run.relative_improvement_holdout), 3),
            ]
        )
    return (
        table(head, rows)
        + "\nstored: weights that are not zero, in units of the dense layer's; RI: median neuron"
        + _tried(found)
    )


def disentanglement_table(found: Runs) -> str:
    """A row for each layer and run: how distance and mapping difficulty changed, and what predicts improvement."""
    head = ["experts of", "WD top 3 %", "weighted", "fell", "median", "WD all", "weighted", "fell", "median"]
    head += ["noise", "MD fell", "median", "W1"]
    rows: list[list[str]] = []
    for run in _with_names(found, rows, len(head)):
        dense, now = run.dense, run.disentanglement
        if dense is None or now is None:
            continue
        change, top = changes(dense, now), wasserstein_neurons(dense)
        row = [_experts(run)]
        for chosen, whose in ((top, "top"), (slice(None), "all")):
            row += [number(_median(column[chosen]), 3) for column in (dense.wasserstein, now.wasserstein_weighted)]
            row += _fell(change["wasserstein"][whose])
        row += [number(now.noise, 3), *(_fell(change["difficulty"]["top"]) if "difficulty" in change else "--")]
        rows.append([*row, number(_median(now.two_sample[top]), 3)])
    legend = (
        "WD: median distance to a Gaussian, of the 3 % most entangled neurons and of all; weighted: within clusters;\n"
        "fell: share of the neurons, and their median change; noise: what Gaussian neurons would show in clusters so\n"
        "small; MD and W1 (dense against experts, in deviations) are of the top 3 %"
    )
    return table(head, rows) + "\n" + legend


def experts_table(found: Runs) -> str:
    """A row for each expert of each layer, in its last run: tokens, what it borrowed, errors in and out of sample."""
    head = ["expert of", "tokens", "held out", "rank", "own", "ridge", "zeros", "error", "held out"]
    rows: list[list[str]] = []
    for run in _with_names([[_shown(runs)] for runs in found], rows, len(head)):
        held = run.errors.expert_error_holdout
        for c, tokens in enumerate(run.tokens_per_expert):
            row = [f"  {c}", f"{tokens}", f"{run.holdout_per_expert[c]}", f"{run.rank[c]}", f"{run.own[c]:.1%}"]
            row += [f"{run.ridge[c]:.3g}" + "*" * bool(run.raised[c]), f"{run.zeros[c] / np.prod(run.shape):.3%}"]
            row += [number(run.errors.expert_error[c]), number(None if held is None else held[c])]
            rows.append(row)
    raised = any(_shown(runs).raised.any() for runs in found)
    legend = "\nown: weight of the expert's own Gram matrix against the whole layer's"
    return table(head, rows) + legend + ("\n* raised until the matrix could be factorised" if raised else "")


def neurons_table(found: Runs, top: int) -> str:
    """The neurons of each layer, in its last run, that gain most by experts; the most entangled where known."""
    scored = any(runs[-1].dense is not None for runs in found)
    head = ["most entangled of" if scored else "most improved of", "error", "RI", "RI held out"]
    head += ["WD", "weighted", "MD", "weighted", "W1"] if scored else []
    rows: list[list[str]] = []
    for run in _with_names([[_shown(runs)] for runs in found], rows, len(head)):
        held, dense, now = run.relative_improvement_holdout, run.dense, run.disentanglement
        gain = run.relative_improvement if held is None else held
        ranked = np.argsort(-gain, kind="stable") if dense is None else dense.top(top)
        for i in ranked[:top]:
            row = [f"  {i}", number(run.errors.neuron_error[i]), number(run.relative_improvement[i], 3)]
            row.append(number(None if held is None else held[i], 3))
            if dense is not None and now is not None:
                columns = (dense.wasserstein, now.wasserstein_weighted, dense.mapping_difficulty)
                columns += (now.difficulty_weighted, now.two_sample)
                row += [number(None if column is None else column[i], 3) for column in columns]
            rows.append(row)
    return table(head, rows)


def _with_names(found: Runs, rows: list[list[str]], width: int) -> Iterator[LayerExpansion]:
    """Yield all runs; the name of a layer becomes a row of its own before its first."""
    for runs in found:
        rows.append([runs[0].name] + [""] * (width - 1))
        yield from runs


def _experts(run: LayerExpansion) -> str:
    return f"  {len(run.zeros)}{CONTROLS[run.control]}"


def _pattern(run: LayerExpansion) -> str:
    sparsity = getattr(run.pattern, "sparsity", None)
    return f"{sparsity:.4g}" if isinstance(sparsity, float) else str(run.pattern)


def _tried(found: Runs) -> str:
    """Say which numbers of experts were tried; the error that chose one is a little too good for it."""
    lines = []
    for run in (runs[0] for runs in found if runs[0].tried):
        errors = ", ".join(f"{k}: {number(error)}" for k, error in run.tried)
        lines.append(f"\n{run.name}: held-out error by number of experts {errors}; it chose {run.asked}")
    return "".join(lines)


def _shown(runs: Sequence[LayerExpansion]) -> LayerExpansion:
    return [run for run in runs if not run.control][-1]


def _fell(change: Change) -> list[str]:
    return [f"{change.share_fallen:.0%}", f"{change.median_change:+.0%}"] if change.neurons else ["-", "-"]


def _median(values: np.ndarray | None) -> float | None:
    live = [] if values is None else values[np.isfinite(values)]
    return float(np.median(live)) if len(live) else None
