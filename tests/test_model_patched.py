"""A patched folder: the weights of some layers are others, every other byte is what it was."""

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import FAMILIES, make, plain_model
from safetensors.torch import load_file

from wncore_torch.model.linears import find_linears
from wncore_torch.model.opening import open_folder
from wncore_torch.model.parameters import read_parameters
from wncore_torch.model.patched import Patch


def stored_tensors(path):
    return {name: value for file in path.glob("*.safetensors") for name, value in load_file(file).items()}


def half_pruned(folder, layer):
    """The parameters that are made together with a layer's, its weights zero in every other input."""
    values = {
        name: value.clone()
        for name, value in read_parameters(folder, folder.sources[layer.parameter].parameters).items()
    }
    layer.weight_of(values[layer.parameter])[:, ::2] = 0
    return values


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_layers_chosen_are_changed(tmp_path, family):
    path = make(tmp_path / "model", family)
    (path / "tokenizer.json").write_text("{}")
    folder = open_folder(path)
    layers = [layer for layer in find_linears(folder).layers if layer.block == 1]
    (tmp_path / "copy").mkdir()
    patch = Patch(folder, layers, tmp_path / "copy")
    for layer in layers:
        patch.write(layer, half_pruned(folder, layer))
        break
    chosen = layers[0]
    before, after = stored_tensors(path), stored_tensors(tmp_path / "copy")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(patch.tensors[chosen.name])
    for entry in path.iterdir():
        if entry.suffix != ".safetensors":
            assert (tmp_path / "copy" / entry.name).read_bytes() == entry.read_bytes()
    loaded = plain_model(tmp_path / "copy")
    values = half_pruned(folder, chosen)
    assert torch.equal(loaded.state_dict()[chosen.parameter].float(), values[chosen.parameter].float())
    assert sum(change.zeros for change in patch.changes) >= chosen.shape[0] * (chosen.shape[1] // 2)
