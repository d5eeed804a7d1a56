"""Models on a GPU: streamed is plain there, too, and what waits on the host comes back as it was."""

import math
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import numpy as np
import torch
from model_families import FAMILIES, collect, largest_gap, make, plain_logits, plain_model, sample_batches

from wncore.backend import get_backend
from wncore.dumps import open_dump
from wncore.errors import NonFiniteError
from wncore.layers.activations import open_layer
from wncore.scoring import score_layer
from wncore_torch.model import HuggingFace
from wncore_torch.model.attention import fused_heads
from wncore_torch.model.forecast import heaviest_block
from wncore_torch.model.held import matrix
from wncore_torch.model.linears import find_linears
from wncore_torch.model.opening import open_folder
from wncore_torch.model.recording import Batch
from wncore_torch.model.source import ModelSource
from wncore_torch.model.stream import Stream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

BATCHES = sample_batches()
TINY = Path(__file__).parent.parent / "data" / "tiny-llm"


def plain_on_gpu(path, dtype):
    batches = [(ids.cuda(), None if mask is None else mask.cuda()) for ids, mask in BATCHES]
    with fused_heads(torch.device("cuda"), getattr(torch, dtype)):  # with keys repeated, as where blocks are streamed
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
    ahead = heaviest_block(open_folder(path, dtype, device="cuda")).held.device  # may be there already when one runs
    assert foretold - ahead <= 1.2 * increase <= 1.44 * foretold, (foretold / 2**20, increase / 2**20)
    (wanted,) = HuggingFace.evaluate(path, [TINY / "heldout.txt"], device="cpu", **options).run()
    assert math.isclose(found.perplexity, wanted.perplexity, rel_tol={"float32": 1e-3, "bfloat16": 0.05}[dtype])


@pytest.mark.parametrize(("family", "dtype"), [("llama", "float32"), ("llama", "bfloat16"), ("mixtral", "float32")])
def test_scores_on_the_device_are_those_of_the_capture(tmp_path, family, dtype):
    folder = open_folder(make(tmp_path / "model", family), dtype, device="cuda")
    windows = torch.randint(0, folder.vocabulary, (24, 64), generator=torch.Generator().manual_seed(3))
    source = ModelSource(folder, find_linears(folder), windows, Path("text"))
    backend, options = get_backend("torch", device="cuda"), {"estimator": "streaming", "pairs": 500}
    found = {one.name: score_layer(one, **options) for one in source.activations(list(source.layers), backend)}
    source.capture(list(source.layers), tmp_path / "dump")
    layers = open_dump(tmp_path / "dump").layers
    for name, score in found.items():
        for memory in (2**30, 2**23):  # all neurons at once, and a few
            other = score_layer(open_layer(layers[name], backend, memory=memory), **options)
            for column, values in score.columns().items():
                rough = {"weight": 1e-12, "mapping": 1e-6}  # which the host adds up in an order of its own
                rtol = rough.get(column.partition("_")[0], 0)
                np.testing.assert_allclose(values, other.columns()[column], rtol=rtol, err_msg=column)


def test_a_matrix_on_the_device_is_read_as_on_the_host():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 7, generator=generator).to(torch.bfloat16)
    device, host = matrix("m", values.cuda()), matrix("m", values)
    assert (device.rows, device.columns, device.dtype, device.itemsize) == (40, 7, "BF16", 2)
    np.testing.assert_array_equal(device.read(slice(3, 9), slice(1, 4)), host.read(slice(3, 9), slice(1, 4)))
    np.testing.assert_array_equal(device.pick(np.array([0, 5, 39])), host.pick(np.array([0, 5, 39])))
    np.testing.assert_array_equal(device.doubles(slice(2, 8)).cpu().numpy(), host.doubles(slice(2, 8)))
    keep = np.arange(40) % 3 > 0
    runs = [slice(0, 10), slice(20, 33)]
    np.testing.assert_array_equal(device.floats(runs, keep).float().cpu().numpy(), host.floats(runs, keep))
    values[4, 2] = float("nan")
    spoiled = matrix("m", values.cuda())
    keep[4] = False
    assert spoiled.floats([slice(0, 10)], keep).isfinite().all()  # what does not count may be anything
    keep[4] = True
    with pytest.raises(NonFiniteError, match="m holds NaN or infinity"):
        spoiled.floats([slice(0, 10)], keep)
