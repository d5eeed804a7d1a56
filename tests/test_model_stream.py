"""A model run block by block is the model: to the last bit, in every family, and where it cannot be it is refused."""

from contextlib import suppress

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
import transformers
from model_families import (
    FAMILIES,
    LENGTH,
    REFUSED,
    largest_gap,
    make,
    make_kind,
    plain_logits,
    plain_model,
    sample_batches,
)
from packaging.version import Version
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from wncore.errors import InputError
from wncore_torch.model.blocks import NotStreamable, find_blocks
from wncore_torch.model.opening import open_folder
from wncore_torch.model.parameters import read_parameters
from wncore_torch.model.recording import Batch
from wncore_torch.model.stream import Stream

pytestmark = pytest.mark.usefixtures("one_thread")

BATCHES = sample_batches()


def new_stream(folder, **options):
    return Stream(folder, [Batch(ids, mask) for ids, mask in BATCHES], **options)


def all_logits(stream, rows=10_000):
    parts = [[] for _ in stream.recorded]
    for number, begin, logits in stream.logits(rows):
        assert begin == sum(part.shape[1] for part in parts[number])
        parts[number].append(logits)
    return [torch.cat(part, dim=1) for part in parts]


def on_meta(folder):
    return all(parameter.is_meta for parameter in folder.model.parameters())


def streamed_logits(folder, spoil=None, **options):
    stream = new_stream(folder, **options)
    if spoil:
        spoil(stream)
    for block in stream.blocks():
        loaded = [name for name, p in folder.model.named_parameters() if not p.is_meta]
        assert loaded
        assert all(name.startswith(block.name + ".") for name in loaded)  # one block, and nothing else
    return all_logits(stream)


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_is_plain(tmp_path, family):
    path = make(tmp_path / "model", family)
    folder, plain = open_folder(path), plain_model(path)
    wanted = dict(plain.named_parameters(remove_duplicate=False))
    ours = read_parameters(folder, wanted)
    for name, value in wanted.items():
        assert ours[name].dtype == value.dtype, name
        assert torch.equal(ours[name], value), name
    for name, value in plain.named_buffers():
        assert torch.equal(folder.model.get_buffer(name), value), name
    real = plain_logits(plain, BATCHES)
    assert largest_gap(streamed_logits(folder), real, BATCHES) == 0
    assert on_meta(folder)
    wide = {"sliding_window": 4096} if "sliding_window" in str(plain.config) else {}
    if wide and FAMILIES[family][1].get("sliding_window"):  # else the windows are too short to tell
        other = plain_model(path, ignore_mismatched_sizes=True, **wide)
        assert largest_gap(real, plain_logits(other, BATCHES), BATCHES) > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["smollm2", "deepseek_v3", "gemma2"])
def test_streamed_is_plain_in_half_precision(tmp_path, family, dtype):
    path = make(tmp_path / "model", family)
    real = plain_logits(plain_model(path, dtype), BATCHES)
    assert largest_gap(streamed_logits(open_folder(path, dtype)), real, BATCHES) == 0


@pytest.mark.parametrize("family", REFUSED)
def test_blocks_that_need_each_other_are_refused(tmp_path, family):
    if REFUSED[family][0] not in CONFIG_MAPPING_NAMES:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    path = make(tmp_path / "model", family)
    folder = open_folder(path)
    says = {
        "dory": "something happens to the hidden state before model.layers.1",
        "glm_moe_dsa": "prev_topk_indices of model.layers.1 was made by another block",
        "gemma3n": "shared_kv_states of model.layers.0 is a (KVSharingDict|dict)",
    }
    if Version(transformers.__version__) < Version("5.24"):  # in some earlier ones blocks are independent: exact then
        with suppress(NotStreamable):
            assert largest_gap(streamed_logits(folder), plain_logits(plain_model(path), BATCHES), BATCHES) == 0
        return
    with pytest.raises(NotStreamable, match=says[family]) as error:
        new_stream(folder)
    assert "use another model" in str(error.value)
    assert on_meta(folder)  # whatever was loaded for it is gone


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "lfm2"])
def test_arguments_of_the_first_block_are_not_those_of_all(tmp_path, family):
    path = make(tmp_path / "model", family)

    def spoil(stream):
        for one in stream.recorded:
            one.calls[:] = one.calls[:1] * len(one.calls)

    try:
        gap = largest_gap(streamed_logits(open_folder(path), spoil), plain_logits(plain_model(path), BATCHES), BATCHES)
    except RuntimeError:  # a hybrid's attention is given the mask of a convolution
        return
    assert gap > 1e-3


def test_a_padding_mask_that_is_dropped_shows(made):
    real = plain_logits(plain_model(made), BATCHES)
    stream = Stream(open_folder(made), [Batch(ids) for ids, _ in BATCHES])
    for _ in stream.blocks():
        pass
    assert largest_gap(all_logits(stream), real, BATCHES) > 1e-3


def test_arguments_kept_by_shape_instead_of_value_show(tmp_path, monkeypatch):
    from wncore_torch.model import recording

    path = make(tmp_path / "model", "mistral")
    real = plain_logits(plain_model(path), BATCHES)
    digest = type("Digest", (), {"digest": lambda self: b""})
    monkeypatch.setattr(recording, "blake2b", lambda data: digest())
    assert largest_gap(streamed_logits(open_folder(path)), real, BATCHES) > 1e-3


def test_buffers_made_on_meta_are_garbage_that_shows(made):
    real = plain_logits(plain_model(made), BATCHES)
    folder = open_folder(made)
    rotary = folder.model.model.rotary_emb
    rotary.inv_freq = torch.zeros_like(rotary.inv_freq)
    assert largest_gap(streamed_logits(folder), real, BATCHES) > 1e-3


def test_equal_arguments_are_kept_once(made):
    stream = new_stream(open_folder(made))
    kept = {id(v) for one in stream.recorded for _, kw in one.calls for v in _tensors(kw)}
    calls = sum(len(list(_tensors(kw))) for one in stream.recorded for _, kw in one.calls)
    assert len(kept) <= 6 < calls


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def test_logits_in_pieces_are_the_logits(made):
    stream = new_stream(open_folder(made))
    for _ in stream.blocks():
        pass
    whole = all_logits(stream)
    for rows in (1, 7, 2 * LENGTH - 1):
        sizes = [logits.shape for _, _, logits in stream.logits(rows)]
        assert all(shape[0] * shape[1] <= max(rows, shape[0]) for shape in sizes)
        assert largest_gap(all_logits(stream, rows), whole, BATCHES) < 1e-5


def test_changed_weights_are_what_is_handed_on(made):
    """Two passes: the block is run, its weights change, and the next block gets what the new ones make."""
    from wncore_torch.model.linears import find_linears

    folder, plain = open_folder(made), plain_model(made)
    with torch.no_grad():
        plain.model.layers[1].mlp.down_proj.weight[:, ::2] = 0
    stream = new_stream(folder, layers=find_linears(folder))
    for block in stream.blocks():
        block.run(lambda read: None)
        for layer in block.layers:
            if layer.name == "model.layers.1.mlp.down_proj":
                block.weight(layer)[:, ::2] = 0
    assert largest_gap(all_logits(stream), plain_logits(plain, BATCHES), BATCHES) == 0
    assert largest_gap(streamed_logits(folder), plain_logits(plain, BATCHES), BATCHES) > 1e-3  # the file is untouched


def test_a_loop_that_ends_early_leaves_nothing_in_memory(made):
    folder = open_folder(made)
    blocks = new_stream(folder).blocks()
    next(blocks)
    assert not on_meta(folder)
    blocks.close()
    assert on_meta(folder)


def test_blocks_are_the_outermost_list_of_most_parameters(tmp_path):
    folder = open_folder(make(tmp_path / "model", "mixtral"))
    assert find_blocks(folder.model)[0] == "model.layers"
    assert len(new_stream(folder)) == 3


def test_models_without_a_list_of_blocks_are_refused():
    with pytest.raises(NotStreamable, match="Linear has no list of blocks"):
        find_blocks(torch.nn.Linear(2, 2))
    block = torch.nn.Linear(2, 2)
    with pytest.raises(NotStreamable, match="one block more than once"):
        find_blocks(torch.nn.Sequential(torch.nn.ModuleList([block, block])))


def test_unknown_tokens_are_refused(made):
    with pytest.raises(InputError, match=r"token 128, and .* knows 128 of them; use the tokenizer"):
        Stream(open_folder(made), [Batch(torch.tensor([[5, 128]]))])


def test_a_model_of_another_embedding_than_width_streams(tmp_path):
    path = make_kind(tmp_path / "model", "llama", {"num_hidden_layers": 1, "head_dim": 16})
    assert largest_gap(streamed_logits(open_folder(path)), plain_logits(plain_model(path), BATCHES), BATCHES) == 0
