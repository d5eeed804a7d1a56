"""A patched folder: the weights of some layers are others, every other byte is what it was."""

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import FAMILIES, make, plain_model, stored_tensors

from wncore_torch.model.linears import find_linears
from wncore_torch.model.opening import open_folder
from wncore_torch.model.parameters import read_parameters
from wncore_torch.model.patched import Patch, check_way_back


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_layers_chosen_are_changed(tmp_path, family):
    path = make(tmp_path / "model", family)
    (path / "tokenizer.json").write_text("{}")
    (path / "more").mkdir()
    (path / "more" / "chat_template.jinja").write_text("hello")
    folder = open_folder(path)
    layers = [layer for layer in find_linears(folder).layers if layer.block == 1]
    check_way_back(folder, layers)
    chosen = layers[:1] + layers[-1:]
    values = {
        name: value.clone()
        for layer in chosen
        for name, value in read_parameters(folder, folder.sources[layer.parameter].parameters).items()
    }
    weights = {}
    for layer in chosen:
        weights[layer] = layer.weight_of(values[layer.parameter])
        weights[layer][:, ::2] = 0
    (tmp_path / "copy").mkdir()
    patch = Patch(folder, tmp_path / "copy")
    patch.write(weights)
    before, after = stored_tensors(path), stored_tensors(tmp_path / "copy")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        change.tensor for change in patch.changes
    }
    for entry in (entry for entry in path.rglob("*") if entry.is_file()):
        copied = (tmp_path / "copy" / entry.relative_to(path)).read_bytes()
        if entry.suffix == ".safetensors":  # lengths and header are what they were
            size = int.from_bytes(copied[:8], "little") + 8
            assert (copied[:size], len(copied)) == (entry.read_bytes()[:size], entry.stat().st_size)
        else:
            assert copied == entry.read_bytes()
    loaded = plain_model(tmp_path / "copy").state_dict()
    for layer in chosen:
        assert torch.equal(loaded[layer.parameter].float(), values[layer.parameter].float())
    assert sum(change.zeros for change in patch.changes) >= sum(
        layer.shape[0] * (layer.shape[1] // 2) for layer in chosen
    )
