"""A model and a text as an owner of activations: a verb on the model is the verb on its capture, to the bit."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import make, plain_model

from wncore.backend import get_backend
from wncore.dumps import open_dump
from wncore.errors import InputError, OutputExistsError, WriteError
from wncore.layers.activations import open_layer
from wncore.layers.arrays import hold_layer
from wncore.scoring import LayerScore, score_layer
from wncore_torch.model import written
from wncore_torch.model.linears import find_linears
from wncore_torch.model.opening import open_folder
from wncore_torch.model.source import ModelSource

STREAMING = {"estimator": "streaming", "pairs": 500, "bins": 128}
SPOOLED = 200 * 2**10
"""Bytes, of which no block fits into half."""


def ids_for(folder, windows=5, length=32):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, folder.vocabulary, (windows, length), generator=generator)


def source_of(path, dtype="float32", batch=2, **options):
    folder = open_folder(path, dtype)
    return ModelSource(folder, find_linears(folder), ids_for(folder, **options), Path("text"), batch)


@pytest.fixture(scope="module")
def backend():
    return get_backend("numba", threads=1)


def scores(source, backend, **options):
    starved = {}
    opened = source.activations(
        list(source.layers), backend, starved=lambda name, error: starved.update({name: error}), **options
    )
    return {one.name: (score_layer(one, **STREAMING), one.sinks) for one in opened}, starved


def assert_same(one: LayerScore, other: LayerScore):
    for field in fields(LayerScore):
        if field.name == "sinks":  # a dump's are not counted
            continue
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=f"{one.name} {field.name}")
        else:
            assert a == b, (one.name, field.name)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("llama", "float32"), ("llama", "bfloat16"), ("gpt2", "float32"), ("mixtral", "float32"), ("gpt_oss", "bfloat16")],
)
def test_a_verb_on_the_model_is_the_verb_on_its_capture(tmp_path, backend, family, dtype):
    source = source_of(make(tmp_path / "model", family), dtype)
    found, starved = scores(source, backend)
    assert found
    spooled, _ = scores(source, backend, memory=SPOOLED)
    captured = source.capture(list(source.layers), tmp_path / "dump")
    dump = open_dump(tmp_path / "dump")
    assert {path.name for path in captured.files} == {path.name for path in (tmp_path / "dump").iterdir()}
    for name, (score, _) in found.items():
        assert_same(score, spooled[name][0])
        assert_same(score, score_layer(open_layer(dump.layers[name], backend), **STREAMING))
    assert found.keys() | starved.keys() == source.layers.keys()
    assert found.keys() == {name for name in dump.layers if dump.layers[name].rows > 1}


def test_what_is_held_is_what_modules_read_and_give(tmp_path, backend):
    path = make(tmp_path / "model", "gpt2")
    source, plain = source_of(path, batch=5), plain_model(path)
    seen = {}
    for name, module in plain.named_modules():
        if type(module).__name__ in ("Conv1D", "Linear"):
            module.register_forward_hook(
                lambda _, args, y, name=name: seen.update({name: (args[0].clone(), y.clone())})
            )
    with torch.no_grad():
        plain(source.windows)
    count = 0
    for one in source.activations(list(source.layers), backend):
        x, y = seen[one.name]
        np.testing.assert_array_equal(one.layer.input.read(), x.flatten(0, 1).numpy())
        np.testing.assert_array_equal(one.layer.output.read(), y.flatten(0, 1).numpy())
        module = plain.get_submodule(one.name)
        np.testing.assert_array_equal(one.layer.weight.read(), module.weight.detach().T.numpy())
        np.testing.assert_array_equal(one.layer.bias.read()[:, 0], module.bias.detach().numpy())
        assert one.tokens.first.nonzero()[0].tolist() == [0, 32, 64, 96, 128]
        count += 1
    assert count == len(source.layers)


def test_first_tokens_and_sinks_are_left_out(tmp_path, backend):
    source = source_of(make(tmp_path / "model", "llama"))
    name = "model.layers.0.mlp.down_proj"  # norms make the inputs of others equally long
    (whole,) = source.activations([name], backend)
    norms = np.linalg.norm(whole.layer.input.read(), axis=1)
    factor = float(np.sort(norms)[-3] / np.median(norms))  # two are longer
    (fewer,) = source.activations([name], backend, skip_norm=factor * (1 + 1e-5))
    assert sorted(np.flatnonzero(~fewer.tokens.keep)) == sorted(np.argsort(norms)[-2:])
    (rest,) = source.activations([name], backend, skip_tokens=2)
    assert np.flatnonzero(~rest.tokens.keep).tolist() == [32 * i + k for i in range(5) for k in (0, 1)]
    assert np.array_equal(rest.tokens.sequence, np.repeat(np.arange(5), 30))
    assert whole.sinks == int((norms > 10 * np.median(norms)).sum())


def test_experts_that_read_nothing_are_named_and_not_captured(tmp_path, backend):
    source = source_of(make(tmp_path / "model", "mixtral"), windows=1, length=4)
    found, starved = scores(source, backend)
    experts = {name for name, layer in source.layers.items() if layer.routed}
    assert starved.keys() <= experts
    assert starved
    named = []
    source.capture(list(source.layers), tmp_path / "dump", starved=lambda name, _: named.append(name))
    dump = open_dump(tmp_path / "dump")
    assert set(named) == source.layers.keys() - {name for name, layer in dump.layers.items() if layer.rows}
    assert set(named) < starved.keys()  # of one token there is a capture, and no score
    assert all(f"{len(one.tokens.keep)}" for one in source.activations(list(found), backend))


def test_layers_that_share_an_input_share_the_object(tmp_path, backend):
    source = source_of(make(tmp_path / "model", "llama"))
    opened = list(source.activations(["model.layers.0.mlp.up_proj", "model.layers.0.mlp.gate_proj"], backend))
    assert opened[0].layer.input is opened[1].layer.input
    source.capture([one.name for one in opened], tmp_path / "dump", parts=["input", "weight"])
    dump = open_dump(tmp_path / "dump")
    assert dump.layers[opened[0].name].input is dump.layers[opened[1].name].input
    assert json.loads(dump.metadata["wncore.shared_inputs"]) == {opened[1].name: opened[0].name}
    assert dump.layers[opened[0].name].output is None


def test_groups_and_coverage(tmp_path):
    source = source_of(make(tmp_path / "model", "llama"))
    assert {name.split(".")[3] for name in source.groups["attention"]} == {"self_attn"}
    assert {name.split(".")[3] for name in source.groups["mlp"]} == {"mlp"}
    assert sorted(source.groups["all"]) == sorted(source.groups["mlp"] + source.groups["attention"])
    assert source.coverage(source.groups["all"]) == 1
    assert 0 < source.coverage(source.groups["mlp"]) < 1


@pytest.mark.parametrize("family", ["pythia", "falcon", "gpt2", "opt", "phi3"])
def test_attention_is_told_from_the_rest_whatever_it_is_called(tmp_path, family):
    source = source_of(make(tmp_path / "model", family))
    parts = ("query_key_value", "attention.dense", "self_attention.dense", "c_attn", "attn.c_proj", "self_attn")
    for name, layer in source.layers.items():
        assert layer.attention == any(part in name for part in parts), name


def test_a_capture_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    source = source_of(make(tmp_path / "model", "llama"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputExistsError, match="taken exists already"):
        source.capture(list(source.layers), tmp_path / "taken")
    with pytest.raises(InputError, match="no folder"):
        source.check_capture(tmp_path / "none" / "dump", 0)
    with pytest.raises(WriteError, match="GiB are free"):
        source.check_capture(tmp_path / "dump", 2**60)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(written.OnDisk, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        source.capture(list(source.layers), tmp_path / "dump")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "taken"]


def test_arrays_in_memory_are_scored_as_a_dump_of_them(tmp_path, backend):
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((3, 50, 6)).astype(np.float32), rng.standard_normal((5, 6)).astype(np.float32)
    y, b = x @ w.T, rng.standard_normal(5).astype(np.float32)
    from wncore.dumps.write import write_dump

    tensors = {"fc.input": x, "fc.output": y, "fc.weight": w, "fc.bias": b}
    write_dump(tmp_path / "a.safetensors", tensors)
    layer = open_dump(tmp_path / "a.safetensors").layers["fc"]
    for options in ({}, {"skip_tokens": 3}):
        held = hold_layer("fc", backend, input=x, output=y, weight=w, bias=b, **options)
        for estimator in ("exact", "streaming", "sampled"):
            choices = {"estimator": estimator, "pairs": 500}
            one, other = score_layer(held, **choices), score_layer(open_layer(layer, backend, **options), **choices)
            assert_same(one, other)
