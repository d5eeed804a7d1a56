"""Which tokens an expert reads: those that the router sent it, whatever the model does to get them there."""

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import LENGTH, collect, make, plain_logits, plain_model, sample_batches

from wncore.errors import InputError
from wncore_torch.model.linears import find_linears
from wncore_torch.model.opening import open_folder
from wncore_torch.model.positions import Positions
from wncore_torch.model.products import Watch

pytestmark = pytest.mark.usefixtures("one_thread")

BATCHES = sample_batches()


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_experts_read_the_tokens_that_the_router_sent(tmp_path, family):
    path = make(tmp_path / "model", family)
    folder, plain = open_folder(path), plain_model(path)
    linears = find_linears(folder)
    seen, rows = collect(folder, linears)
    sent, number = {}, [0]
    for name, module in plain.named_modules():
        if name.endswith(".experts"):
            module.register_forward_pre_hook(
                lambda _, args, name=name: sent.update({(name, number[0]): (args[0].clone(), args[1].clone())})
            )
    for number[0], batch in enumerate(BATCHES):
        plain_logits(plain, [batch])
    idle = 0
    for layer in linears.layers:
        if layer.expert is None:
            continue
        total = 0
        for batch, (_, mask) in enumerate(BATCHES):
            hidden, chosen = sent[layer.parameter.rpartition(".")[0], batch]
            hidden = hidden.reshape(-1, hidden.shape[-1])
            own = (chosen == layer.expert).any(-1)
            own &= True if mask is None else mask.flatten()
            tokens = own.nonzero()[:, 0]
            total += len(tokens)
            got = seen.get((layer.name, batch), [])
            if not len(tokens):
                assert not got
                continue
            ((x, told),) = got
            assert torch.equal(told, tokens), layer.name
            if "gate_up" in layer.name:
                assert torch.equal(x, hidden[tokens]), layer.name
        assert rows[layer.name] == total
        idle += not total
    assert {f"{layer.name}" for layer in linears.layers if rows[layer.name] == 0} == {n for n in rows if not rows[n]}
    assert idle < len(rows)


def test_an_idle_expert_is_listed_and_has_no_rows(tmp_path):
    folder = open_folder(make(tmp_path / "model", "mixtral"))
    linears = find_linears(folder)
    ids = torch.tensor([[5, 6]])  # 2 tokens by 2 experts each: at least 8 of 12 get nothing
    _, rows = collect(folder, linears, [(ids, None)])
    experts = {name: count for name, count in rows.items() if ".layers.1.mlp.experts.gate_up_proj." in name}
    assert len(experts) == 12
    assert sum(count == 0 for count in experts.values()) >= 8
    assert sum(experts.values()) == 4


def test_all_tokens_by_all_experts(tmp_path):
    """Llama 4 gives every expert every token, those of others as zeros: they are no tokens of the expert."""
    path = make(tmp_path / "model", "llama4")
    folder = open_folder(path)
    seen, rows = collect(folder, find_linears(folder))
    for block in range(3):
        for part in ("gate_up_proj", "down_proj"):
            names = [f"model.layers.{block}.feed_forward.experts.{part}.{expert}" for expert in range(4)]
            assert sum(rows[name] for name in names) == 5 * LENGTH - 5  # each token has one expert; five are padding
            told = torch.cat([seen[name, 1][0][1] for name in names if seen[name, 1]])
            assert torch.equal(told.sort().values, BATCHES[1][1].flatten().nonzero()[:, 0])


def test_only_the_layers_asked_for(tmp_path):
    folder = open_folder(make(tmp_path / "model", "mixtral"))
    name = "model.layers.1.mlp.experts.down_proj.2"
    linears = find_linears(folder)
    all_seen, all_rows = collect(folder, linears)
    seen, rows = collect(folder, linears, only={name})
    assert {key[0] for key in seen} == {name}
    assert rows == {name: all_rows[name]}
    for batch in range(3):  # its tokens are known by its first matrix, which nobody asked for
        for (x, told), (other, known) in zip(seen[name, batch], all_seen[name, batch], strict=True):
            assert torch.equal(x, other)
            assert torch.equal(told, known)


def positions_of(code, mask=None, tokens=6):
    """Run code under a watch, with a parameter of three experts: the tokens of each product."""
    experts, found = torch.randn(3, 5, 4), []
    positions = Positions(tokens, mask, torch.device("cpu"))

    def meet(product):
        found.append(positions.of(product)[1])

    with Watch({"block.experts.up": experts}, meet, positions.after):
        code(experts, torch.randn(tokens, 4))
    return [None if one is None else one.tolist() for one in found]


def test_tokens_of_gathered_rows():
    linear = torch.nn.functional.linear

    def split(experts, x):  # gathered once, then split: each part has its own tokens
        first, second = x[torch.tensor([4, 0, 5, 2])].split([1, 3])
        linear(first, experts[0])
        linear(second, experts[1])

    assert positions_of(split) == [[4], [0, 2, 5]]
    assert positions_of(split, torch.tensor([False, True, True, True, True, True])) == [[4], [2, 5]]

    def selected(experts, x):
        linear(x.index_select(0, torch.tensor([3, 1])), experts[2])
        linear(torch.ones(2, 4), experts[2])  # what the expert made of them
        linear(torch.ones(2, 4), experts[0])  # another expert, of which nothing is known
        linear(torch.ones(6, 4), experts[0])  # as many rows as tokens

    assert positions_of(selected) == [[1, 3], [1, 3], None, [0, 1, 2, 3, 4, 5]]


def test_all_tokens_gathered_in_another_order():
    linear = torch.nn.functional.linear

    def code(experts, x):
        linear(x[torch.tensor([2, 0, 1])], experts[0])
        linear(torch.ones(3, 4), experts[0])  # the same expert
        linear(torch.ones(3, 4), experts[1])  # in order, or in that of the expert? nobody knows
        linear(x, experts[2])  # what was gathered from has a row for each token
        linear(torch.ones(3, 4), experts[2])

    assert positions_of(code, tokens=3) == [[0, 1, 2], [0, 1, 2], None, [0, 1, 2], [0, 1, 2]]


def test_rows_of_unknown_tokens_and_padding_are_refused(tmp_path, monkeypatch):
    folder = open_folder(make(tmp_path / "model", "mixtral"))
    linears = find_linears(folder)
    monkeypatch.setattr(Positions, "after", lambda *_: None)
    seen, _ = collect(folder, linears, BATCHES[:1])
    unknown = [key for key, calls in seen.items() if any(told is None for _, told in calls)]
    assert unknown
    assert all(".experts." in name for name, _ in unknown)
    with pytest.raises(InputError, match="cannot be told apart as tokens or padding; give windows without padding"):
        collect(folder, linears, BATCHES[1:2])
