"""Pictures of scores: the distances of a layer, its most entangled neurons, distance against mapping difficulty."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wncore_cli import printable

if TYPE_CHECKING:
    from wncore.scoring import LayerScore

KINDS = ("wasserstein", "neurons", "difficulty")
BLUE, ORANGE, GREY = "#2a6f97", "#e07a1f", "#8d99ae"


def targets(folder: Path, names: list[str], force: bool, kinds: Sequence[str] = KINDS) -> list[dict[str, Path]]:
    """Name each layer's pictures, make the folder, and check that they may be written.

    The layer's name comes from a file: only letters, digits, dots and dashes of it enter the name of a picture.
    """
    from wncore.errors import InputError
    from wncore.files import check_output

    if find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib, which is not installed: pip install 'wncore[plot]'")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--plot {folder} is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--plot {folder} cannot be made: {error.strerror}; choose another folder") from error
    found = []
    for i, name in enumerate(names):
        stem = f"{i:03d}-{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:80]}"
        found.append({kind: folder / f"{stem}.{kind}.png" for kind in kinds})
        for path in found[-1].values():
            check_output(path, force)
    return found


def draw(activations: Any, score: "LayerScore", files: dict[str, Path], force: bool) -> None:
    """Draw the pictures of one layer; the third only where the mapping difficulty is known."""
    from matplotlib.figure import Figure

    from wncore.files import replacing

    figures = {"wasserstein": _distances(Figure, score), "neurons": _neurons(Figure, activations, score)}
    if score.mapping_difficulty is not None:
        figures["difficulty"] = _difficulty(Figure, score)
    for kind, figure in figures.items():
        with replacing(files[kind], force) as temporary:
            figure.savefig(temporary, format="png", dpi=144)


def _distances(make: Any, score: "LayerScore") -> Any:
    figure = make(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    live = score.wasserstein[~score.constant]
    axes.set_title(title(f"{score.name}: {score.neurons} neurons, {score.tokens} tokens"))
    quiet(axes)
    if not len(live):
        axes.text(0.5, 0.5, "no neuron varies by more than rounding", transform=axes.transAxes, ha="center")
        return figure
    top = score.wasserstein[score.top(max(1, round(0.03 * len(live))))]
    axes.hist(live, bins=min(100, max(10, len(live) // 12)), color=BLUE)
    axes.axvline(score.noise_floor, color=GREY, linestyle="--", label=f"noise floor {score.noise_floor:.4f}")
    axes.axvline(top[-1], color=ORANGE, label=f"top 3 % of neurons, from {top[-1]:.3f}")
    axes.set_yscale("log")
    axes.set(xlabel="Wasserstein distance to a Gaussian (deviations)", ylabel="neurons", xlim=(0, None))
    axes.legend(frameon=False)
    return figure


def _neurons(make: Any, activations: Any, score: "LayerScore") -> Any:
    import numpy as np

    from wncore.normal import density
    from wncore.outputs import Outputs

    outputs = Outputs(activations)
    figure = make(figsize=(10, 5.6), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True).ravel()
    grid = np.linspace(-5, 5, 401)
    for axes, (neuron, y) in zip(panels, outputs.neurons(score.top(6)).items(), strict=False):
        z = (y - score.mean[neuron]) / score.std[neuron]
        axes.hist(z, bins=np.linspace(-5, 5, 101), density=True, color=BLUE)
        axes.plot(grid, density(grid), color=ORANGE, linewidth=1.5)
        beyond = float(np.mean(np.abs(z) > 5))
        if beyond:
            axes.text(0.98, 0.9, f"{beyond:.2%} beyond ±5", transform=axes.transAxes, ha="right", fontsize=9)
        error = score.wasserstein_error[neuron]
        axes.set_title(f"neuron {neuron}: WD {score.wasserstein[neuron]:.3f} ± {error:.3f}", fontsize=10)
        quiet(axes)
    for axes in panels[len(score.top(6)) :]:
        axes.set_visible(False)
    figure.supxlabel("standardised output")
    figure.supylabel("density")
    figure.suptitle(title(f"{score.name}: the most entangled neurons, and the Gaussian"))
    return figure


def _difficulty(make: Any, score: "LayerScore") -> Any:
    figure = make(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    shuffled, true = score.mapping_difficulty_shuffled, score.mapping_difficulty
    axes.scatter(
        score.wasserstein, shuffled, s=10, color=GREY, alpha=0.6, linewidths=0, label="inputs shuffled (control)"
    )
    axes.scatter(score.wasserstein, true, s=10, color=BLUE, alpha=0.7, linewidths=0, label="as measured")
    axes.set(xlabel="Wasserstein distance to a Gaussian (deviations)", ylabel="mapping difficulty", xlim=(0, None))
    axes.set_title(title(f"{score.name}: mapping difficulty, {score.pairs} pairs"))
    quiet(axes)
    axes.legend(frameon=False)
    return figure


def quiet(axes: Any) -> None:
    """Leave out the frame above and beside."""
    axes.spines[["top", "right"]].set_visible(False)


def title(text: str) -> str:
    """Make a name that nobody checked fit to print."""
    return printable(text).replace("$", r"\$")  # names are no mathematics
