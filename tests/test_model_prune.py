"""`prune` on a model: a folder that is its copy but for zeros, with the weights that its capture gives."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import FAMILIES, make, plain_model, stored_tensors
from test_model_source import ids_for, source_of

from wncore.backend import get_backend
from wncore.calibration import calibrate
from wncore.dumps import open_dump
from wncore.errors import InputError, OutputExistsError
from wncore.layer_pruning import prune_layers
from wncore.layers.activations import open_layers
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import parse_pattern
from wncore.tolerance import share
from wncore_torch.model.text import random_windows


@pytest.fixture(scope="module")
def backend():
    return get_backend("numba", threads=1)


def spec_of(pattern="0.5", **options):
    return PruneSpec((parse_pattern(pattern),), **options)


def prune(source, chosen, backend, output=None, order="published", spec=None, **options):
    """Prune a model as the command does; returns the results by layer, and what was changed."""
    specs, found, failed = dict.fromkeys(chosen, spec or spec_of(method="wanda")), {}, []
    with source.replacing(chosen, order=order, output=output) as work:
        opened = work.activations(backend, **options)
        for (one,) in prune_layers(opened, specs, wasserstein=False, fail=lambda name, _: failed.append(name)):
            work.replace(one.name, one.weight)
            found[one.name] = one
    return found, work.changes


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_is_a_copy_with_the_zeros_asked_for(tmp_path, family, backend):
    path, out = make(tmp_path / "model", family), tmp_path / "pruned"
    source = source_of(path)
    found, changes = prune(source, source.groups["all"], backend, out)
    assert set(found) == {name for change in changes for name in change.layers}
    before, after = stored_tensors(path), stored_tensors(out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= {change.tensor for change in changes}
    zeros = {change.tensor: change.zeros for change in changes}
    assert sum(zeros.values()) == sum(one.zeros for one in found.values())
    assert all(one.zeros == one.shape[0] * one.shape[1] // 2 for one in found.values())
    for name in changed:
        assert int((after[name] == 0).sum()) - int((before[name] == 0).sum()) <= zeros[name]
    for entry in path.iterdir():
        assert entry.suffix == ".safetensors" or (out / entry.name).read_bytes() == entry.read_bytes()
    loaded = plain_model(out).state_dict()
    for name, one in found.items():
        layer = source.layers[name]
        assert np.array_equal(layer.weight_of(loaded[layer.parameter]).float().numpy(), one.weight.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "smollm2", "gpt2", "mixtral"])
def test_pruning_a_model_is_pruning_its_capture(tmp_path, family, dtype, backend):
    path = make(tmp_path / "model", family)
    source = source_of(path, dtype)
    chosen = source.groups["all"]
    source.capture(chosen, tmp_path / "dump", parts=("input", "weight"))
    found, _ = prune(source, chosen, backend, order="dense", spec=spec_of("0.5"))
    dump = open_dump(tmp_path / "dump")
    layers = open_layers([dump.layers[name] for name in found], backend)
    others = prune_layers(layers, dict.fromkeys(found, spec_of("0.5")), wasserstein=False)
    for (one,) in others:
        mine = found[one.name]
        assert (one.tokens, one.holdout_tokens) == (mine.tokens, mine.holdout_tokens)
        assert one.weight.dtype == mine.weight.dtype
        np.testing.assert_array_equal(one.weight, mine.weight)
        assert (one.relative_error, one.relative_error_holdout) == (mine.relative_error, mine.relative_error_holdout)


def agree(source, other, backend, theirs):
    """Where devices differ: Gram matrices within the budget of both roundings, weights by what they lose."""
    chosen = source.groups["all"]
    grams = {one.name: calibrate(one) for one in source.activations(chosen, backend, parts=("input",))}
    for one in other.activations(chosen, theirs, parts=("input",)):
        mine, found = grams.pop(one.name), calibrate(one)
        assert (found.tokens, found.holdout_tokens) == (mine.tokens, mine.holdout_tokens)
        sizes = np.sqrt(np.outer(mine.gram.diagonal(), mine.gram.diagonal()))
        assert share(found.gram, mine.gram, "float32", 4 * mine.tokens, sizes) <= 2
    assert not grams
    spec = spec_of("0.5")
    mine, _ = prune(source, chosen, backend, order="dense", spec=spec)
    found, _ = prune(other, chosen, theirs, order="dense", spec=spec)
    assert found.keys() == mine.keys()
    for name, one in found.items():
        assert one.zeros == mine[name].zeros
        assert one.relative_error == pytest.approx(mine[name].relative_error, rel=0.02)


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_other_backends_give_as_good_weights(tmp_path, family, name, backend):
    path = make(tmp_path / "model", family)
    agree(source_of(path), source_of(path), backend, get_backend(name))


def inputs_of(path, ids, layer, **weights):
    """What a plain model with other weights gives a layer to read: all tokens (n, d)."""
    model, read = plain_model(path), []
    for name, weight in weights.items():
        model.get_submodule(name).weight.data = torch.from_numpy(weight.astype(np.float32))
    model.get_submodule(layer).register_forward_pre_hook(lambda _, x: read.append(x[0].flatten(0, 1)))
    with torch.no_grad():
        model(ids)
    return torch.cat(read).numpy()


@pytest.mark.parametrize("order", ["dense", "published", "sequential"])
def test_orders_say_whose_inputs_are_read(tmp_path, order, backend):
    path = make(tmp_path / "model", "llama")
    source = source_of(path, batch=5)
    names = ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj"]
    grams, weights = {}, {}
    with source.replacing(names, order=order) as work:
        for one in work.activations(backend, holdout=0):
            grams[one.name] = calibrate(one).gram
            weights[one.name] = np.array(one.read_weight())
            weights[one.name][:, ::2] = 0
            work.replace(one.name, weights[one.name])
    felt = {"dense": [], "published": names[:2], "sequential": names[:2]}[order]
    within = names[:1] if order == "sequential" else []
    for name, changed in ((names[0], []), (names[1], within), (names[2], felt)):
        x = inputs_of(path, source.windows, name, **{other: weights[other] for other in changed})
        np.testing.assert_allclose(grams[name], x.T.astype(float) @ x, rtol=1e-4, atol=1e-4)


def test_what_is_handed_on_was_rounded_as_the_file_is(tmp_path, backend):
    path, out = make(tmp_path / "model", "smollm2"), tmp_path / "pruned"
    source = source_of(path)
    chosen = source.groups["mlp"]
    with source.replacing(chosen, order="sequential", output=out) as work:
        for one in work.activations(backend):
            weight = one.read_weight()
            assert str(weight.dtype) == "bfloat16"
            work.replace(one.name, (weight.astype(np.float32) * 0.7).astype(weight.dtype))
        last = calibrate(one).gram
    again = source_of(out)
    (dense,) = again.activations([one.name], backend)
    np.testing.assert_array_equal(last, calibrate(dense).gram)


def test_windows_lie_where_the_published_code_draws_them():
    import random

    tokens = torch.arange(1000)
    random.seed(3)
    starts = [random.randint(0, 1000 - 32 - 1) for _ in range(5)]
    found = random_windows(tokens, 32, 5, seed=3)
    assert found[:, 0].tolist() == starts
    assert torch.equal(found[2], tokens[starts[2] : starts[2] + 32])
    assert len(random_windows(tokens, 300, 128, seed=0)) == 3
    assert random_windows(torch.arange(32), 32, 4, seed=0).tolist() == [list(range(32))]


def test_nothing_is_left_when_pruning_fails(tmp_path, backend):
    path, out = make(tmp_path / "model", "llama"), tmp_path / "pruned"
    source = source_of(path)
    with (
        pytest.raises(RuntimeError, match="the user went away"),
        source.replacing(["model.layers.0.mlp.up_proj"], output=out),
    ):
        raise RuntimeError("the user went away")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    out.mkdir()
    with pytest.raises(OutputExistsError):
        source.replacing(["model.layers.0.mlp.up_proj"], output=out)
    with pytest.raises(InputError, match="is in the folder that is read"):
        source.replacing(["model.layers.0.mlp.up_proj"], output=path / "pruned")
    before = stored_tensors(path)
    prune(source, source.groups["mlp"], backend)
    assert all(torch.equal(value, before[name]) for name, value in stored_tensors(path).items())
    assert ids_for(source.folder).shape == (5, 32)
    assert json.loads((path / "config.json").read_text())
