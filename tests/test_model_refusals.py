"""Folders that are refused, by name, before a weight is read."""

import json
import os

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import edit_config, edit_tensors, make
from safetensors.torch import load_file, save_file

from wncore.errors import BackendUnavailable, DumpError, InputError
from wncore_torch.model import HuggingFace
from wncore_torch.model.headers import read_headers
from wncore_torch.model.opening import open_folder

pytestmark = pytest.mark.usefixtures("one_thread")

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def refuse(path, match, kind=InputError):
    with pytest.raises(kind, match=match):
        open_folder(path)


def test_quantised_folders(llama):
    edit_config(llama, quantization_config={"quant_method": "gptq", "bits": 4})
    refuse(llama, r"model is quantised \(gptq\): its tensors are no weights; use the original model")


def test_eight_bit_floats_are_no_weights(llama):
    edit_tensors(llama, lambda old: old | {EMBEDDING: old[EMBEDDING].to(torch.float8_e4m3fn)})
    refuse(llama, r"embed_tokens\.weight of model is F8_E4M3, .* use the original model")


def test_pickle_only(llama):
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    refuse(llama, r"there is config.json, .*pytorch_model.bin. Pickled weights are never read")


def test_another_shape(llama):
    edit_config(llama, intermediate_size=40)
    refuse(llama, r"mlp\.\w+\.weight is \(.*\) by config.json and \(.*\) in the file .* of different models")


def test_a_missing_head(llama):
    edit_tensors(llama, lambda old: {name: value for name, value in old.items() if name != HEAD})
    refuse(llama, r"no tensor for lm_head.weight \(1 in all\); config.json and the files")


def test_one_block_too_many(llama):
    edit_config(llama, num_hidden_layers=4)
    refuse(llama, r"no tensor for model\.layers\.3\.\S+, .* \(9 in all\)")


def test_an_expert_too_few(tmp_path):
    path = make(tmp_path / "model", "mixtral")
    edit_tensors(path, lambda old: {name: value for name, value in old.items() if ".experts.11." not in name})
    refuse(path, r"gate_up_proj is \(12, 96, 32\) by config.json and \(11, 96, 32\) in the file")


def test_half_an_expert(tmp_path):
    path = make(tmp_path / "model", "mixtral")
    edit_tensors(
        path, lambda old: {name: value for name, value in old.items() if ".1.block_sparse_moe.experts.3.w3" not in name}
    )
    refuse(path, "do not make model.layers.1.mlp.experts.gate_up_proj: ")


def test_folders_that_are_none(tmp_path, llama):
    refuse(tmp_path / "nowhere", "is no folder; give the folder of a Hugging Face model")
    refuse(tmp_path, "has no config.json; give the folder")
    assert HuggingFace.holds(llama)
    assert not HuggingFace.holds(tmp_path)
    edit_config(llama, model_type="nonsense")
    refuse(llama, "of no model that the installed transformers knows: .* code of a folder's own is never run")
    edit_config(llama, model_type="vit")
    refuse(llama, "vit is no causal language model of transformers; use one that is")
    (llama / "config.json").write_text("{")
    refuse(llama, "of no model that the installed transformers knows")


def test_code_of_the_folder_is_not_run(llama):
    (llama / "evil.py").write_text("raise SystemExit('run')")
    edit_config(llama, model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    refuse(llama, "code of a folder's own is never run")


def test_unknown_dtypes_of_the_forward(llama):
    with pytest.raises(InputError, match="computed in float32, bfloat16, float16, float64; got 'int8'"):
        open_folder(llama, "int8")


@pytest.fixture
def sharded(tmp_path):
    return make(tmp_path / "sharded", "smollm2")


def edit_index(path, change):
    file = path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def test_an_index_that_lies(sharded):
    first = next(iter(read_headers(sharded)))
    edit_index(sharded, lambda names: names.pop(first))
    refuse(sharded, f"differ in {first}", DumpError)


def test_an_index_that_names_the_wrong_shard(sharded):
    one, *_, other = read_headers(sharded).items()
    assert one[1].file != other[1].file
    edit_index(sharded, lambda names: names.update({one[0]: other[1].file.name}))
    refuse(sharded, f"{one[0]} is in {one[1].file.name}, and .* says {other[1].file.name}; download", DumpError)


def test_a_shard_too_few(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    refuse(sharded, f"lacks {shard.name}, which its index names; download it again")


def test_an_index_that_points_elsewhere(sharded):
    edit_index(sharded, lambda names: names.update({EMBEDDING: "../model.safetensors"}))
    refuse(sharded, "no safetensors file beside it", DumpError)


def test_a_tensor_in_two_shards(sharded):
    shards = sorted(sharded.glob("*.safetensors"))
    tensors = load_file(shards[1])
    save_file(tensors | dict([next(iter(load_file(shards[0]).items()))]), shards[1])
    refuse(sharded, r"is in \S+ and in \S+; download|is in \S+, and \S+ says", DumpError)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"weight_map": {"a": 1}}', b"\xff"])
def test_an_index_that_is_none(sharded, content):
    (sharded / "model.safetensors.index.json").write_bytes(content)
    refuse(sharded, "index.json (is no index of shards|has no weight_map|is not sound JSON)", DumpError)


def test_an_index_that_never_ends(sharded, monkeypatch):
    monkeypatch.setattr("wncore.dumps.sources.LONGEST", 100)
    refuse(sharded, "index.json has more than 100 bytes", DumpError)
    path = sharded / "model.safetensors.index.json"
    path.unlink()
    os.mkfifo(path)
    refuse(sharded, "is not a regular file", DumpError)


def test_a_truncated_file(llama):
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    refuse(llama, "truncated", DumpError)


def test_a_transformers_without_what_we_need_is_named(monkeypatch):
    import importlib

    from transformers import core_model_loading

    from wncore_torch.model import internals

    with monkeypatch.context() as patch:
        patch.delattr(core_model_loading, "rename_source_key")
        with pytest.raises(BackendUnavailable, match=r"transformers \S+ lacks .*rename_source_key.*pip install"):
            importlib.reload(internals)
    importlib.reload(internals)
