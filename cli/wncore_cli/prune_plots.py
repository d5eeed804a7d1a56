"""Pictures of a pruned layer: what neurons lose against their distance, and outputs before and after."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wncore_cli.plots import BLUE, GREY, ORANGE, quiet, title

if TYPE_CHECKING:
    from wncore.layer_pruning import LayerPruning
    from wncore.normal import Float

KINDS = ("errors", "outputs")


def draw(activations: Any, result: "LayerPruning", files: dict[str, Path], force: bool) -> None:
    """Draw the pictures of one layer, as far as it has the inputs they take."""
    from matplotlib.figure import Figure

    from wncore.files import replacing

    distance = result.wasserstein_dense
    if distance is None or result.weight is None:
        return
    figures = {
        "errors": _errors(Figure, activations.weight, result, distance),
        "outputs": _outputs(Figure, activations, result, distance, result.weight),
    }
    for kind, figure in figures.items():
        with replacing(files[kind], force) as temporary:
            figure.savefig(temporary, format="png", dpi=144)


def _errors(make: Any, weight: Any, result: "LayerPruning", distance: "Float") -> Any:
    """Error, share of zeros and mean magnitude of each neuron against its distance (figure A4 of arXiv:2405.15756)."""
    import numpy as np

    figure = make(figsize=(13, 4.2), layout="constrained")
    held = result.neuron_error_holdout
    dense = np.abs(weight.read().astype(np.float64)).mean(axis=1)
    columns = {
        "relative error" + ("" if held is None else ", held out"): result.neuron_error if held is None else held,
        "share of zeros": result.neuron_sparsity,
        "mean |weight| before": dense,
    }
    for axes, (label, values) in zip(figure.subplots(1, 3), columns.items(), strict=True):
        axes.scatter(distance, values, s=10, color=BLUE, alpha=0.6, linewidths=0)
        axes.set(xlabel="Wasserstein distance before pruning (deviations)", ylabel=label, xlim=(0, None))
        quiet(axes)
    figure.suptitle(title(f"{result.name}: {len(dense)} neurons, {_setting(result)}"))
    return figure


def _outputs(make: Any, activations: Any, result: "LayerPruning", distance: "Float", pruned: Any) -> Any:
    """Outputs of the neurons that lose most and of the most entangled, before and after (figure 1 there)."""
    import numpy as np

    from wncore.outputs import Outputs
    from wncore.wasserstein import two_sample_distance

    judged = result.neuron_error if result.neuron_error_holdout is None else result.neuron_error_holdout
    ranked = np.argsort(-np.nan_to_num(distance, nan=-1.0), kind="stable")
    worst, entangled = np.argsort(-judged, kind="stable")[:3], ranked[:3]
    before, after = (
        Outputs(activations, weights=weights).neurons([*worst, *entangled])
        for weights in (activations.weight.read().astype(np.float32), pruned.astype(np.float32))
    )
    figure = make(figsize=(11, 6), layout="constrained")
    for line, (heading, chosen) in zip(
        figure.subplots(2, 3), (("largest error", worst), ("most entangled", entangled)), strict=True
    ):
        for axes, neuron in zip(line, chosen, strict=False):
            y, changed = before[int(neuron)].astype(np.float64), after[int(neuron)].astype(np.float64)
            unit, centre = y.std() or 1.0, y.mean()
            y, changed = (y - centre) / unit, (changed - centre) / unit
            bins = np.linspace(-5, 5, 101)
            axes.hist(y, bins=bins, density=True, color=GREY, alpha=0.7, label="dense")
            axes.hist(changed, bins=bins, density=True, histtype="step", color=ORANGE, linewidth=1.3, label="pruned")
            moved = float(two_sample_distance(y[:, None], changed[:, None])[0])
            axes.set_title(
                f"{heading}: neuron {neuron}\nWD {distance[neuron]:.3f}, error {judged[neuron]:.3f}, W1 {moved:.3f}",
                fontsize=10,
            )
            quiet(axes)
        line[0].legend(frameon=False)
        for axes in line[len(chosen) :]:
            axes.set_visible(False)
    figure.supxlabel("output, standardised by the dense neuron's mean and deviation")
    figure.supylabel("density")
    figure.suptitle(title(f"{result.name}: outputs before and after, {_setting(result)}"))
    return figure


def _setting(result: "LayerPruning") -> str:
    return f"{result.spec.method} at {result.pattern}"
