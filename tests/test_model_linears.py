"""The linear layers of a model: all of them, what each reads, which read the same, and what they cover."""

from collections import defaultdict

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import (
    FAMILIES,
    collect,
    make,
    make_kind,
    plain_logits,
    plain_model,
    sample_batches,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from wncore_torch.model.linears import find_linears, name_of
from wncore_torch.model.opening import open_folder
from wncore_torch.model.products import Product, Watch
from wncore_torch.model.recording import Batch
from wncore_torch.model.stream import Stream

pytestmark = pytest.mark.usefixtures("one_thread")

BATCHES = sample_batches()


def hooked(model, batches):
    """What hooks on nn.Linear and Conv1D see in the plain forward, by module and batch."""
    found, number = defaultdict(list), [0]

    def hook(name):
        return lambda module, args: found[name, number[0]].append(args[0].detach().clone())

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not model.get_output_embeddings()
    ]
    for number[0], batch in enumerate(batches):
        plain_logits(model, [batch])
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_read_what_hooks_see_in_the_plain_forward(tmp_path, family):
    path = make(tmp_path / "model", family)
    folder, plain = open_folder(path), plain_model(path)
    linears = find_linears(folder)
    seen, rows = collect(folder, linears)
    wanted = hooked(plain, BATCHES)
    layers = {layer.name: layer for layer in linears.layers}
    inside = {key: calls for key, calls in wanted.items() if ".0." in key[0] or ".1." in key[0] or ".2." in key[0]}
    assert inside
    for (name, batch), calls in inside.items():
        assert layers[name].expert is None
        x = torch.cat([call.reshape(-1, call.shape[-1]) for call in calls])
        ids, mask = BATCHES[batch]
        tokens = torch.arange(ids.numel()) if mask is None else mask.flatten().nonzero()[:, 0]
        ((got, told),) = seen[name, batch]
        assert torch.equal(told, tokens), name
        assert torch.equal(got, x[tokens]), name
    assert rows.keys() == layers.keys()
    for name in {name for name, _ in inside}:
        assert rows[name] == sum(len(got) for (own, _), calls in seen.items() if own == name for got, _ in calls)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_outputs_by_inputs_and_make_the_outputs(tmp_path, family):
    """x W' + b is what the module gives, whatever it stores and however it adds the bias."""
    path = make(tmp_path / "model", family)
    folder = open_folder(path)
    linears, checked = find_linears(folder), 0
    stream = Stream(folder, [Batch(ids, mask) for ids, mask in BATCHES[:1]], linears)
    for block in stream.blocks():
        for layer in block.layers:
            weight, bias = block.weight(layer), block.bias(layer)
            assert tuple(weight.shape) == layer.shape
            if layer.expert is not None:
                continue
            module = folder.model.get_submodule(layer.name)
            if not isinstance(module, nn.Linear | Conv1D) or "router" in layer.name:  # Llama 4's gives more
                continue
            x = torch.randn(3, layer.shape[1])
            made = x @ weight.T if bias is None else x @ weight.T + bias
            with torch.no_grad():
                torch.testing.assert_close(module(x), made)
            checked += 1
    assert checked >= 6


COVERAGE = {  # by hand: what the blocks' weights are, and how many layers that makes
    "llama": (1.0, 7 * 3),
    "gpt2": (1.0, 4 * 3),
    "falcon": (1.0, 4 * 3),
    "mixtral": (1.0, (4 + 1 + 2 * 12) * 3),
    "qwen2_moe": (1.0, (4 + 1 + 2 * 4 + 3 + 1) * 3),
    "llama4": (1.0, (4 + 1 + 2 * 4 + 3) * 3),
}


@pytest.mark.parametrize("family", COVERAGE)
def test_coverage(tmp_path, family):
    folder = open_folder(make(tmp_path / "model", family))
    linears = find_linears(folder)
    share, count = COVERAGE[family]
    assert (linears.covered / linears.parameters, len(linears.layers), linears.uncovered) == (share, count, ())
    total = sum(p.numel() for n, p in folder.model.named_parameters() if p.ndim >= 2 and ("layers." in n or "h." in n))
    assert linears.parameters == total


def test_what_no_product_is_seen_with_is_named(tmp_path):
    """gpt-oss adds its experts' biases: two axes, and no weight of a linear layer."""
    linears = find_linears(open_folder(make(tmp_path / "model", "gpt_oss")))
    assert linears.uncovered == tuple(
        f"model.layers.{i}.mlp.experts.{name}_proj_bias" for i in range(3) for name in ("gate_up", "down")
    )
    assert linears.parameters - linears.covered == 3 * 4 * (2 * 48 + 32)
    biased = next(layer for layer in linears.layers if layer.name == "model.layers.1.mlp.experts.down_proj.2")
    assert biased.bias == "model.layers.1.mlp.experts.down_proj_bias"
    assert biased.turned


SHARED = {
    "llama": ["q_proj k_proj v_proj", "o_proj", "gate_proj up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc", "c_proj"],
    "falcon": ["query_key_value dense_h_to_4h", "dense", "dense_4h_to_h"],
    "opt": ["q_proj k_proj v_proj", "out_proj", "fc1", "fc2"],
    "pythia": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
}


@pytest.mark.parametrize("family", SHARED)
def test_layers_that_share_an_input(tmp_path, family):
    groups = defaultdict(list)
    for layer in find_linears(open_folder(make(tmp_path / "model", family))).of_block(1):
        groups[layer.reads].append(layer.name.rpartition(".")[2])
    assert sorted(" ".join(names) for names in groups.values()) == sorted(SHARED[family])


def test_the_router_shares_the_input_of_the_shared_expert(tmp_path):
    linears = find_linears(open_folder(make(tmp_path / "model", "qwen2_moe"))).of_block(0)
    reads = {layer.name.removeprefix("model.layers.0.mlp."): layer.reads for layer in linears}
    assert reads["gate"] == reads["shared_expert.gate_proj"] == reads["shared_expert_gate"]
    assert reads["experts.gate_up_proj.3"] == "model.layers.0.mlp.experts.gate_up_proj.3"


def test_experts_as_a_list_of_modules_are_twins(tmp_path):
    """An expert of a list of modules that gets no token in the survey is listed beside those that do."""

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(
                nn.ModuleDict({"w1": nn.Linear(4, 6), "w2": nn.Linear(6, 4)}) for _ in range(3)
            )
            self.never = nn.Linear(4, 4)

        def forward(self, x):
            return self.experts[1]["w2"](self.experts[1]["w1"](x))

    from wncore_torch.model.linears import _survey, _with_twins

    block = Experts()
    found = list(_with_twins(block, _survey(block, lambda: block(torch.ones(2, 4)))))
    assert sorted(one.name for one in found) == [f"experts.{i}.{w}" for i in range(3) for w in ("w1", "w2")]
    assert all(one.reads == one.name for one in found)


def test_a_part_of_a_matrix_is_no_layer():
    weight, seen = torch.randn(6, 4), []
    with Watch({"w": weight}, seen.append), torch.no_grad():
        torch.nn.functional.linear(torch.ones(2, 4), weight[:3])
        torch.nn.functional.linear(torch.ones(2, 6), weight.T)
        torch.ones(2, 4) @ weight.T
        torch.addmm(torch.zeros(4), torch.ones(2, 6), weight)
        torch.nn.functional.linear(weight=weight, input=torch.ones(2, 4))
    assert [(product.expert, product.turned) for product in seen] == [
        (None, True),
        (None, False),
        (None, True),
        (None, False),
    ]


def test_parameters_that_are_parts_of_one_memory():
    """Converters split a tensor of the file into parameters that are views of it."""
    whole, seen = torch.randn(10, 4), []
    first, second, third = whole[:4], whole[4:6], whole[6:].view(2, 2, 4)
    with Watch({"a": first, "b": second, "c": third}, seen.append):
        for weight in (second, first, third[1], whole, whole[2:6]):
            torch.nn.functional.linear(torch.ones(2, 4), weight)
    assert [(product.parameter, product.expert) for product in seen] == [("b", None), ("a", None), ("c", 1)]


def test_a_square_matrix_knows_its_turn():
    weight, seen = torch.randn(4, 4), []
    with Watch({"w": weight}, seen.append):
        torch.ones(2, 4) @ weight
        torch.nn.functional.linear(torch.ones(2, 4), weight)
    assert [product.turned for product in seen] == [True, False]


def test_names():
    assert name_of("mlp.up_proj.weight", None) == "mlp.up_proj"
    assert name_of("mlp.experts.gate_up_proj", 3) == "mlp.experts.gate_up_proj.3"
    product = Product("a.experts.up", 0, torch.ones(1, 1), torch.ones(1, 1), biased=False, turned=False)
    assert not product.sparse


def test_blocks_of_other_kinds_are_surveyed_on_their_own(tmp_path):
    """DeepSeek's first block is dense, the others are mixtures."""
    linears = find_linears(open_folder(make(tmp_path / "model", "deepseek_v3")))
    assert not any(layer.expert is not None for layer in linears.of_block(0))
    assert sum(layer.expert is not None for layer in linears.of_block(2)) == 2 * 8
    assert linears.covered == linears.parameters


def test_a_model_of_one_kind_reads_one_block(tmp_path, monkeypatch):
    from wncore_torch.model import linears

    folder, read = open_folder(make_kind(tmp_path / "model", "llama", {"num_hidden_layers": 6})), []
    load = linears.loaded
    monkeypatch.setattr(linears, "loaded", lambda folder, names: read.append(names) or load(folder, names))
    assert len(find_linears(folder).layers) == 42
    assert len(read) == 1
