"""Models on a GPU: streamed is plain there, too, and what waits on the host comes back as it was."""

import math
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
from model_families import FAMILIES, collect, largest_gap, make, plain_logits, plain_model, sample_batches

from wncore_torch.model import HuggingFace
from wncore_torch.model.linears import find_linears
from wncore_torch.model.opening import open_folder
from wncore_torch.model.recording import Batch
from wncore_torch.model.stream import Stream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

BATCHES = sample_batches()
TINY = Path(__file__).parent.parent / "data" / "tiny-llm"


def plain_on_gpu(path, dtype):
    batches = [(ids.cuda(), None if mask is None else mask.cuda()) for ids, mask in BATCHES]
    return [logits.cpu() for logits in plain_logits(plain_model(path, dtype).cuda(), batches)]


@pytest.mark.parametrize("place", ["cuda", "cpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_is_plain(tmp_path, family, dtype, place):
    path = make(tmp_path / "model", family)
    folder = open_folder(path, dtype, device="cuda")
    stream = Stream(folder, [Batch(ids, mask) for ids, mask in BATCHES], place=place)
    for block in stream.blocks():
        assert all(parameter.is_cuda for parameter in block.module.parameters())
    assert all(one.hidden.device.type == place for one in stream.recorded)
    ours = [logits.cpu() for _, _, logits in stream.logits(10_000)]
    gap = largest_gap(ours, plain_on_gpu(path, dtype), BATCHES)
    routed = any("experts" in name for name in folder.sources)  # outputs of experts are added in any order
    assert gap <= ({"float32": 1e-4, "bfloat16": 0.1}[dtype] if routed else 0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "llama4"])
def test_layers_read_what_they_read_on_the_host(tmp_path, family):
    path = make(tmp_path / "model", family)
    host, device = open_folder(path), open_folder(path, device="cuda")
    linears = find_linears(device)
    assert linears == find_linears(host)
    ours, rows = collect(device, linears)
    theirs, wanted = collect(host, linears)
    assert rows == wanted
    for key, calls in theirs.items():
        for (x, tokens), (other, known) in zip(ours[key], calls, strict=True):
            assert x.is_cuda
            assert torch.equal(tokens.cpu(), known)
            torch.testing.assert_close(x.cpu(), other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_perplexity_is_that_of_the_host_and_memory_as_foretold(tmp_path, dtype):
    path = tmp_path / "model"
    make(path, "llama", vocab_size=2048, hidden_size=1024, intermediate_size=4096, max_position_embeddings=512)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, path)
    options = {"dtype": dtype, "windows": 64, "length": 128, "batch": 16}
    work = HuggingFace.evaluate(path, [TINY / "heldout.txt"], device="cuda", **options)
    (found,) = work.run()
    increase, foretold = work.measured().device - work.base.device, work.predicted.device - work.base.device
    assert increase > 2**25
    assert abs(foretold - increase) <= 0.2 * increase, (foretold / 2**20, increase / 2**20)
    (wanted,) = HuggingFace.evaluate(path, [TINY / "heldout.txt"], device="cpu", **options).run()
    assert math.isclose(found.perplexity, wanted.perplexity, rel_tol={"float32": 1e-3, "bfloat16": 0.05}[dtype])
