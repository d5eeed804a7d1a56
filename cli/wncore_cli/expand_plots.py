"""Pictures of a layer of sparse experts: was it disentangled, which neurons gain, and what each expert puts out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wncore_cli.plots import BLUE, GREY, ORANGE, quiet, title

if TYPE_CHECKING:
    from wncore.experts.disentanglement import Change
    from wncore.experts.expansion import LayerExpansion
    from wncore.normal import Float

KINDS = ("disentanglement", "improvement", "experts")
PREDICTORS = {
    "wasserstein": "Wasserstein distance (deviations)",
    "mean": "mean output",
    "variance": "output variance",
    "skewness": "skewness",
    "excess_kurtosis": "excess kurtosis",
}
LONGEST = 2**15
"""Pixels along a side; with many runs a picture becomes coarser, not longer."""


def draw(
    activations: Any,
    runs: "Sequence[LayerExpansion]",
    neurons: Sequence[int],
    files: dict[str, Path],
    force: bool,
) -> None:
    """Draw the pictures of one layer, a row or a column for each of its runs that was scored.

    Of no neurons, the most entangled one and a typical one are shown.
    """
    from matplotlib.figure import Figure

    from wncore.files import replacing

    scored: list[Any] = [run for run in runs if run.dense is not None and run.disentanglement is not None]
    if not scored:
        return
    gained = [run for run in scored if _experts_of(run) > 1] or scored  # one expert gains nothing
    kept = [run for run in scored if run.weights is not None]
    shown = neurons or examples(scored[0].dense)
    figures = {"disentanglement": _disentanglement(Figure, scored), "improvement": _improvement(Figure, gained)}
    if kept and shown:
        figures["experts"] = _experts(Figure, activations, kept, shown)
    for kind, figure in figures.items():
        with replacing(files[kind], force) as temporary:
            longer = max(figure.get_size_inches())
            figure.savefig(temporary, format="png", dpi=min(144, LONGEST / longer))


def examples(dense: Any) -> list[int]:
    """Choose neurons to show: the most entangled, and one of median distance; none if all are constant."""
    ranked = dense.top(dense.neurons)
    return [int(neuron) for neuron in dict.fromkeys([*ranked[:1], *ranked[len(ranked) // 2 :][:1]])]


def _disentanglement(make: Any, runs: Sequence[Any]) -> Any:
    """Weighted distance and mapping difficulty after expansion against those before (figure 5 of arXiv:2405.15756)."""
    from wncore.experts.disentanglement import changes, wasserstein_neurons

    found = [changes(run.dense, run.disentanglement) for run in runs]
    columns = max(map(len, found))
    figure = make(figsize=(5.4 * columns, 5.4 * len(runs) + 0.6), layout="constrained")
    for line, run, change in zip(figure.subplots(len(runs), columns, squeeze=False), runs, found, strict=True):
        dense, now = run.dense, run.disentanglement
        top, label = wasserstein_neurons(dense), f"after, weighted over the clusters\n{_setting(run)}"
        _before_after(line[0], dense.wasserstein, now.wasserstein_weighted, top, change["wasserstein"])
        _logarithmic(line[0])
        line[0].axhline(now.noise, color=BLUE, linestyle="--", linewidth=1, label=f"noise alone: {now.noise:.3f}")
        line[0].set(xlabel="Wasserstein distance to a Gaussian before (deviations)", ylabel=label)
        line[0].legend(frameon=False, fontsize=9, loc="upper left")
        if "difficulty" in change:
            _before_after(line[1], dense.mapping_difficulty, now.difficulty_weighted, top, change["difficulty"])
            line[1].set(xlabel="mapping difficulty before", ylabel=label)
        for axes in line[len(change) :]:
            axes.set_visible(False)
    figure.suptitle(_heading(runs, "before and after expansion"))
    return figure


def _before_after(axes: Any, before: "Float", after: "Float", top: Any, change: "dict[str, Change]") -> None:
    import numpy as np

    known = (before > 0) & (after > 0)
    both = np.concatenate([before[known], after[known]]) if known.any() else np.ones(1)
    ends = both.min() / 1.05, both.max() * 1.05
    axes.plot(ends, ends, color="black", linewidth=0.8)
    _scatter(axes, before, after, top)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_title(f"all neurons: {_fell(change['all'])}\nWasserstein neurons: {_fell(change['top'])}", fontsize=10)
    quiet(axes)


def _logarithmic(axes: Any) -> None:
    """Make both axes logarithmic, with ticks at 1, 2 and 5 that stay readable over one decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _scatter(axes: Any, x: "Float", y: "Float", top: Any) -> None:
    """Draw the Wasserstein neurons over the others."""
    import numpy as np

    rest = np.delete(np.arange(len(x)), top)
    for chosen, color, label in ((rest, GREY, "neurons"), (top, ORANGE, "Wasserstein neurons: the top 3 %")):
        axes.scatter(x[chosen], y[chosen], s=11, color=color, alpha=0.7, linewidths=0, label=label)


def _fell(change: "Change") -> str:
    if not change.neurons:
        return "undefined"
    return f"{100 * change.share_fallen:.0f} % fell, median {round(100 * change.median_change):+d} %".replace("-", "−")


def _improvement(make: Any, runs: Sequence[Any]) -> Any:
    """Relative improvement of each neuron against statistics of its dense outputs (figure 7 there)."""
    import numpy as np

    from wncore.experts.association import associations, predictors
    from wncore.experts.disentanglement import wasserstein_neurons

    figure = make(figsize=(16, 3.6 * len(runs) + 0.4), layout="constrained")
    for line, run in zip(figure.subplots(len(runs), len(PREDICTORS), squeeze=False, sharey="row"), runs, strict=True):
        gain, held = _gain(run)
        found, top = associations(gain, run.dense), wasserstein_neurons(run.dense)
        line[0].set_ylabel(f"{held}relative improvement\n{_setting(run)}")
        statistics = predictors(run.dense)
        for axes, (name, label) in zip(line, PREDICTORS.items(), strict=True):
            x, fit = statistics[name], found[name]
            _scatter(axes, x, gain, top)
            if np.isfinite(fit.slope):
                known = np.isfinite(x) & np.isfinite(gain)
                axes.axline((x[known].mean(), gain[known].mean()), slope=fit.slope, color=BLUE, linewidth=1.2)
            axes.set_xlabel(label)
            axes.set_title(f"R² = {fit.r_squared:.3f}, 95 %: {fit.low:.3f} to {fit.high:.3f}", fontsize=10)
            quiet(axes)
    figure.suptitle(_heading(runs, "what experts gain each neuron; Wasserstein neurons orange"))
    return figure


def _experts(
    make: Any,
    activations: Any,
    runs: Sequence[Any],
    neurons: Sequence[int],
) -> Any:
    """Dense and sparse outputs of some neurons, run by run, and those of each expert (figure 6 there)."""
    most = max(runs, key=_experts_of)
    figure = make(figsize=(3.1 * (len(runs) + 1), 3.0 * len(neurons) + 0.6), layout="constrained")
    panels = figure.subplots(len(neurons), len(runs) + 1, squeeze=False, sharex=True)
    for line, neuron in zip(panels, neurons, strict=True):
        y = _neuron(activations, neuron)
        centre, unit = y.mean(), y.std() or 1.0
        for axes in line[1:-1]:
            axes.sharey(line[0])
        for axes in line[:-1]:
            _density(axes, (y - centre) / unit, len(y), fill=True, color=GREY, alpha=0.6, label="dense")
        for axes, run in zip(line, runs, strict=False):
            sparse = (_neuron(activations, neuron, run) - centre) / unit
            _density(axes, sparse, len(y), color=ORANGE, linewidth=1.3, label="sparse")
            gain, held = _gain(run)
            moved = f"W1 {run.disentanglement.two_sample[neuron]:.3f}, {held}RI {gain[neuron]:.2f}"
            axes.set_title(f"{_setting(run)}\n{moved}", fontsize=10)
            if run is most:
                _parts(line[-1], sparse, run.labels)
        line[0].set_ylabel(f"neuron {neuron}: WD {runs[0].dense.wasserstein[neuron]:.3f}\ndensity")
        line[-1].set_title(f"{_setting(most)}\neach expert's part of it", fontsize=10)
    panels[0, 0].legend(frameon=False, fontsize=9)
    for axes in panels.flat:
        quiet(axes)
    figure.supxlabel("output, standardised by the dense neuron's mean and deviation")
    figure.suptitle(_heading(runs, "outputs of neurons, dense and through sparse experts"))
    return figure


def _neuron(activations: Any, neuron: int, run: Any = None) -> Any:
    """Compute the outputs of one neuron, (n,), by the dense weights or by a run's experts."""
    from wncore.outputs import Outputs

    experts = {} if run is None else {"weights": run.weights, "labels": run.labels}
    return Outputs(activations.alone(), **experts).of(slice(neuron, neuron + 1))[:, 0].astype(float)


def _parts(axes: Any, sparse: Any, labels: Any) -> None:
    """Draw what each expert puts out, from dark to bright by its mean."""
    from matplotlib import colormaps

    parts = sorted((sparse[labels == expert] for expert in set(labels.tolist())), key=lambda part: part.mean())
    for i, part in enumerate(parts):
        _density(axes, part, len(sparse), color=colormaps["viridis"](i / len(parts)), linewidth=0.9)


def _density(axes: Any, values: Any, total: int, **style: Any) -> None:
    """Draw the histogram of a part of `total` values, so that parts add up to the whole."""
    import numpy as np

    counts, edges = np.histogram(values, np.linspace(-5, 5, 101))
    axes.stairs(counts / (total * (edges[1] - edges[0])), edges, **style)


def _gain(run: Any) -> tuple[Any, str]:
    """Return the relative improvement (m,), on tokens held out where there are any, and a word on that."""
    held = run.relative_improvement_holdout
    return (run.relative_improvement, "") if held is None else (held, "held-out ")


def _experts_of(run: Any) -> int:
    return len(run.tokens_per_expert)


def _setting(run: Any) -> str:
    control = {"random": ", random clusters", "stored": ", as many weights stored"}.get(run.control or "", "")
    return f"k = {_experts_of(run)} at {run.pattern}{control}"


def _heading(runs: Sequence[Any], what: str) -> str:
    return title(f"{runs[0].name}: {what}")
