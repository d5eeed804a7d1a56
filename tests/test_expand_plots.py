"""The pictures of sparse experts: which are drawn, and what their titles say."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from dump_samples import only

from wncore.dumps import open_dump, write_dump
from wncore.errors import OutputExistsError
from wncore.experts.association import associations
from wncore.experts.disentanglement import changes, disentangle
from wncore.fast import NumbaBackend
from wncore.layers.activations import open_layer
from wncore.scoring import score_layer
from wncore_cli import expand_plots, plots

pytest.importorskip("matplotlib")
BACKEND = NumbaBackend(threads=1)
HOSTILE = "a.$x^{$.\x1b[31m\n../up"


@dataclass(frozen=True)
class Run:
    """As much of a LayerExpansion as is drawn."""

    name: str
    weights: Any
    labels: Any
    tokens_per_expert: Any
    dense: Any
    disentanglement: Any
    relative_improvement: Any
    relative_improvement_holdout: Any
    control: Any = None
    pattern: Any = "0.5"


@pytest.fixture
def expand(tmp_path):
    """Make a layer of 40 neurons, and runs of 1, 2, ... random experts of it."""

    def make(name="l", runs=(1, 4), pairs=50, dense_weights=None):
        rng = np.random.default_rng(0)
        x, w = rng.standard_normal((200, 6)) ** 3, rng.standard_normal((40, 6))
        w = w if dense_weights is None else dense_weights
        write_dump(tmp_path / "l.safetensors", {f"{name}.input": x, f"{name}.weight": w}, force=True)
        layer = only(open_dump(tmp_path / "l.safetensors"))
        dense = score_layer(open_layer(layer, BACKEND), pairs=pairs)
        found = []
        for k in runs:
            labels = rng.integers(0, k, 200)
            experts = w * (rng.random((k, *w.shape)) < 0.5)
            judged = disentangle(open_layer(layer, BACKEND), experts, labels, dense=dense, pairs=pairs)
            gain = rng.uniform(1, 2, len(w))
            counts = np.bincount(labels, minlength=k)
            found.append(Run(name, experts, labels, counts, dense, judged, gain, gain + 1))
        return layer, found

    return make


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draw runs: (layer, runs) -> the figures by kind, which were saved as PNG."""
    from matplotlib.figure import Figure

    save, figures = Figure.savefig, {}

    def record(figure, path, **options):
        figures[len(figures)] = figure
        save(figure, path, **options | {"dpi": 20})

    def call(layer, runs, neurons=()):
        figures.clear()
        (files,) = plots.targets(tmp_path / "pictures", [layer.name], True, expand_plots.KINDS)
        for path in files.values():
            path.unlink(missing_ok=True)
        expand_plots.draw(open_layer(layer, BACKEND), runs, neurons, files, False)
        drawn = [kind for kind, path in files.items() if path.exists()]
        assert all(files[kind].read_bytes().startswith(b"\x89PNG") for kind in drawn)
        return dict(zip(drawn, figures.values(), strict=True))

    monkeypatch.setattr(Figure, "savefig", record)
    return call


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def test_every_run_is_drawn(expand, draw):
    layer, runs = expand(runs=(1, 2, 4))
    found = draw(layer, runs)
    assert list(found) == ["disentanglement", "improvement", "experts"]
    assert len(titles(found["disentanglement"])) == 3 * 2
    assert len(titles(found["improvement"])) == 2 * 5  # one expert gains nothing
    assert len(titles(found["experts"])) == 2 * (3 + 1)


def test_titles_say_what_was_measured(expand, draw):
    layer, runs = expand()
    found, run = draw(layer, runs), runs[1]
    change = changes(run.dense, run.disentanglement)["difficulty"]["all"]
    share, median = f"{100 * change.share_fallen:.0f} %", f"{round(100 * change.median_change):+d} %".replace("-", "−")
    assert f"all neurons: {share} fell, median {median}" in titles(found["disentanglement"])[3]
    fit = associations(run.relative_improvement_holdout, run.dense)["variance"]
    assert titles(found["improvement"])[2] == f"R² = {fit.r_squared:.3f}, 95 %: {fit.low:.3f} to {fit.high:.3f}"
    top = run.dense.top(1)[0]
    moved, gain = run.disentanglement.two_sample[top], run.relative_improvement_holdout[top]
    assert titles(found["experts"])[1] == f"k = 4 at 0.5\nW1 {moved:.3f}, held-out RI {gain:.2f}"
    assert found["experts"].axes[0].get_ylabel().startswith(f"neuron {top}: WD {run.dense.wasserstein[top]:.3f}")


def test_parts_of_experts_add_up_to_the_sparse_outputs(expand, draw):
    layer, runs = expand()
    axes = draw(layer, runs)["experts"].axes
    sparse = axes[1].patches[1].get_data().values
    parts = [patch.get_data().values for patch in axes[2].patches]
    assert len(parts) == 4
    np.testing.assert_allclose(np.sum(parts, axis=0), sparse)


def test_runs_of_a_neuron_share_an_axis_that_holds_them_all(expand, draw):
    layer, runs = expand()
    tall = replace(runs[1], weights=1e-3 * runs[1].weights)
    axes = draw(layer, [runs[0], tall])["experts"].axes
    highest = max(patch.get_data().values.max() for each in axes[:2] for patch in each.patches)
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert highest < axes[0].get_ylim()[1]


def test_neurons_may_be_chosen(expand, draw):
    layer, runs = expand()
    found = draw(layer, runs, neurons=[3, 5, 7])["experts"]
    assert [axes.get_ylabel()[:8] for axes in found.axes[::3]] == ["neuron 3", "neuron 5", "neuron 7"]


def test_a_control_is_named(expand, draw):
    layer, runs = expand()
    found = draw(layer, [*runs, replace(runs[1], control="random", relative_improvement_holdout=None)])
    assert titles(found["experts"])[2].startswith("k = 4 at 0.5, random clusters\nW1")
    assert found["improvement"].axes[5].get_ylabel() == "relative improvement\nk = 4 at 0.5, random clusters"


def test_names_are_neither_mathematics_nor_commands(expand, draw):
    layer, runs = expand(name=HOSTILE)
    for figure in draw(layer, runs).values():
        assert figure.get_suptitle().startswith(r"a.\$x^{\$.\x1b[31m\n../up: ")


@pytest.mark.parametrize("shape", [(1, 6), (2, 6)])
def test_layers_of_one_or_two_neurons(expand, draw, shape):
    layer, runs = expand(dense_weights=np.random.default_rng(1).standard_normal(shape))
    assert len(draw(layer, runs)) == 3


def test_a_layer_of_constant_neurons_has_no_outputs_to_show(expand, draw):
    layer, runs = expand(dense_weights=np.zeros((3, 6)))
    found = draw(layer, runs)
    assert list(found) == ["disentanglement", "improvement"]
    assert titles(found["disentanglement"])[0] == "all neurons: undefined\nWasserstein neurons: undefined"


def test_what_was_not_measured_is_not_drawn(expand, draw):
    layer, runs = expand(pairs=0)
    assert len(titles(draw(layer, runs)["disentanglement"])) == 2
    assert list(draw(layer, [replace(run, weights=None) for run in runs])) == ["disentanglement", "improvement"]
    assert draw(layer, [replace(run, disentanglement=None) for run in runs]) == {}


def test_pictures_are_not_overwritten_unasked(expand, tmp_path):
    layer, runs = expand(runs=(1,))
    (files,) = plots.targets(tmp_path / "pictures", ["l"], False, expand_plots.KINDS)
    files["improvement"].write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        expand_plots.draw(open_layer(layer, BACKEND), runs, (), files, False)
    assert files["improvement"].read_bytes() == b"mine"
