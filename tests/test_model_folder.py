"""Opening folders: names, ties, shapes, shards; and what is refused, by name, before a weight is read."""

import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import (
    FAMILIES,
    edit_config,
    edit_tensors,
    largest_gap,
    make,
    plain_logits,
    plain_model,
    sample_batches,
    stored_tensors,
)
from safetensors.torch import save_file

from wncore_torch.model.headers import read_headers, same_bytes
from wncore_torch.model.names import unconvert
from wncore_torch.model.opening import open_folder
from wncore_torch.model.parameters import dtype_of, file_dtype, loaded, read_parameters

pytestmark = pytest.mark.usefixtures("one_thread")

BATCHES = sample_batches()


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_turn_back_into_the_tensors_of_the_file(tmp_path, family):
    """In the file's own bytes, for the way back: fused experts into many, in every family."""
    path = make(tmp_path / "model", family)
    folder, tensors = open_folder(path), stored_tensors(path)
    assert set(folder.stored) == set(tensors)
    back = {}
    for source in {id(source): source for source in folder.sources.values()}.values():
        values = read_parameters(folder, source.parameters)
        back |= unconvert(folder.model, source, values)
    assert back.keys() | set(folder.unused) == tensors.keys()
    for name, value in back.items():
        assert torch.equal(value, tensors[name].float()), name


def test_bytes_lie_where_the_header_says(llama):
    tensors = stored_tensors(llama)
    for name, entry in read_headers(llama).items():
        data = entry.file.read_bytes()[entry.begin : entry.end]
        assert torch.equal(torch.frombuffer(bytearray(data), dtype=entry.dtype).reshape(entry.shape), tensors[name])


def test_names_of_the_hub(tmp_path):
    pythia = open_folder(make(tmp_path / "pythia", "pythia"))
    assert "embed_out.weight" in pythia.stored
    head = next(name for name, value in pythia.model.named_modules() if value is pythia.model.get_output_embeddings())
    assert pythia.sources[f"{head}.weight"].tensors[0][0] == "embed_out.weight"  # lm_head, from transformers 5.23 on
    gpt2 = open_folder(make(tmp_path / "gpt2", "gpt2"))
    assert gpt2.sources["transformer.h.1.attn.c_attn.weight"].tensors[0][0] == "h.1.attn.c_attn.weight"
    assert gpt2.unused == ("h.0.attn.bias", "h.1.attn.bias", "h.2.attn.bias")
    mixtral = open_folder(make(tmp_path / "mixtral", "mixtral"))
    source = mixtral.sources["model.layers.0.mlp.experts.gate_up_proj"]
    assert len(source.tensors) == 2 * 12
    assert "model.layers.0.block_sparse_moe.experts.10.w1.weight" in dict(source.tensors)


def test_experts_that_are_fused_in_the_file_too(tmp_path):
    path = make(tmp_path / "model", "mixtral")
    plain = plain_model(path)
    save_file({name: value.contiguous() for name, value in plain.state_dict().items()}, path / "model.safetensors")
    folder = open_folder(path)
    assert all(source.converter is None for source in folder.sources.values())
    ours = read_parameters(folder, [name for name, _ in plain.named_parameters()])
    assert all(torch.equal(ours[name], value) for name, value in plain.named_parameters())


def test_experts_in_lexical_order_would_show(tmp_path, monkeypatch):
    from wncore_torch.model import names

    path = make(tmp_path / "model", "mixtral")
    parameter = "model.layers.0.mlp.experts.gate_up_proj"
    right = read_parameters(open_folder(path), [parameter])[parameter]
    monkeypatch.setattr(names, "dot_natural_key", lambda name: name)
    assert not torch.equal(read_parameters(open_folder(path), [parameter])[parameter], right)


def logits_agree(folder, path):
    from wncore_torch.model.recording import Batch
    from wncore_torch.model.stream import Stream

    stream = Stream(folder, [Batch(ids, mask) for ids, mask in BATCHES])
    for _ in stream.blocks():
        pass
    ours = [logits for _, _, logits in stream.logits(10_000)]
    return largest_gap(ours, plain_logits(plain_model(path), BATCHES), BATCHES) == 0


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def test_a_tied_head_that_the_file_leaves_out(tmp_path):
    path = make(tmp_path / "model", "llama", tie_word_embeddings=True)
    folder = open_folder(path)
    assert HEAD not in folder.stored
    assert folder.ties == ((EMBEDDING, HEAD),)
    values = read_parameters(folder, [EMBEDDING, HEAD])
    assert values[HEAD] is values[EMBEDDING]  # one memory
    assert logits_agree(folder, path)


def test_a_tied_head_that_the_file_has_too(tmp_path):
    path = make(tmp_path / "model", "llama", tie_word_embeddings=True)
    edit_tensors(path, lambda old: old | {HEAD: old[EMBEDDING].clone()})
    folder = open_folder(path)
    assert folder.ties == ((EMBEDDING, HEAD),)
    assert logits_agree(folder, path)


def test_other_bytes_are_not_tied_whatever_the_flag_says(llama):
    edit_config(llama, tie_word_embeddings=True)
    folder = open_folder(llama)
    assert folder.ties == ()
    assert not torch.equal(*read_parameters(folder, [EMBEDDING, HEAD]).values())
    assert logits_agree(folder, llama)


def test_equal_bytes_are_a_tie_whatever_the_flag_says(llama):
    edit_tensors(llama, lambda old: old | {HEAD: old[EMBEDDING].clone()})
    folder = open_folder(llama)
    assert folder.ties == ((EMBEDDING, HEAD),)
    assert logits_agree(folder, llama)


def test_bytes_are_compared_to_the_last(llama):
    edit_tensors(llama, lambda old: old | {HEAD: old[EMBEDDING].clone(), "x": old[EMBEDDING].half()})
    stored = read_headers(llama)
    assert same_bytes(stored, [EMBEDDING, HEAD])
    assert not same_bytes(stored, [EMBEDDING, "x"])

    def nudge(old):
        old[HEAD][-1, -1] += 1e-6
        return old

    edit_tensors(llama, nudge)
    assert not same_bytes(read_headers(llama), [EMBEDDING, HEAD])


def test_dtypes_of_the_file_and_of_the_forward(tmp_path):
    path = make(tmp_path / "model", "smollm2")
    assert len(list(path.glob("*.safetensors"))) > 2
    folder = open_folder(path, "float16")
    name = "model.layers.1.mlp.up_proj.weight"
    assert (file_dtype(folder, name), dtype_of(folder, name)) == (torch.bfloat16, torch.float16)
    assert read_parameters(folder, [name])[name].dtype == torch.float16
    assert folder.limit == 64
    assert folder.vocabulary == 128


def test_parameters_leave_memory_however_it_ends(llama):
    folder = open_folder(llama)

    def fail():
        with loaded(folder, [EMBEDDING]):
            assert not folder.model.get_parameter(EMBEDDING).is_meta
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert folder.model.get_parameter(EMBEDDING).is_meta


def test_the_room_is_entered_without_torch():
    code = "import wncore_torch.model, sys; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "safetensors"} & {name.partition(".")[0] for name in names}
