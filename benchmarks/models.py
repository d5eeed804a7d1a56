"""Timings of verbs on whole models: python benchmarks/models.py score MODEL TEXT | score-7b | eval MODEL TEXT ...

`score-7b` makes a folder of the shape of Llama-2-7B with random weights in bfloat16 (13.5 GB) in a temporary folder.
Beside each time stands the plain forward of the model, resident on the device, by transformers, on the same tokens in
the same batches, and the pass that streams the blocks and watches nothing. Results: docs/benchmarks.md.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from wncore.backend import get_backend
from wncore.scoring import score_layer
from wncore_torch.devices import find_device
from wncore_torch.model.linears import find_linears
from wncore_torch.model.opening import open_folder
from wncore_torch.model.recording import Batch
from wncore_torch.model.source import ModelSource
from wncore_torch.model.stream import Stream
from wncore_torch.model.text import read_text

WINDOWS, LENGTH, BATCH = 128, 2048, 4
DEVICE = find_device(None)


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def clock(what: str, work, runs: int = 1) -> float:
    times = []
    for _ in range(runs):
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        wait()
        begin = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else 0
    median = sorted(times)[len(times) // 2]
    print(f"{what:52s} {median:8.2f} s   {[round(one, 2) for one in times]}   peak {peak:.1f} GiB", flush=True)
    return median


def score(path: Path, windows: torch.Tensor, dtype: str, pairs: tuple[int, ...], runs: int = 2) -> None:
    ids = windows.split(BATCH)
    folder = open_folder(path, dtype, DEVICE)
    source = ModelSource(folder, find_linears(folder), windows, Path("text"), BATCH)
    backend = get_backend("torch" if DEVICE.type == "cuda" else "numba")

    def streaming() -> None:
        for _ in Stream(folder, [Batch(one) for one in ids]).blocks():
            pass

    def scoring(pairs: int) -> None:
        parts = ("input", "output") if pairs else ("output",)
        for one in source.activations(list(source.layers), backend, parts=parts):
            score_layer(one, estimator="streaming", pairs=pairs)

    held = [AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).to(DEVICE).eval()]

    @torch.no_grad()
    def plain() -> None:
        for one in ids:
            held[0].model(input_ids=one.to(DEVICE), use_cache=False)

    plain_time = clock("plain forward, resident, without lm_head", plain, runs + 1)
    held.clear()
    stream_time = clock("streamed, nobody watches", streaming, runs)
    neurons = sum(m for m, _ in (layer.shape for layer in source.layers.values()))
    for count in pairs:
        mine = clock(f"score, {neurons} neurons, {count} pairs", lambda count=count: scoring(count), runs)
        print(f"    {mine / plain_time:.2f} plain forwards, {mine / stream_time:.2f} streamed passes", flush=True)


def make_7b(path: Path) -> None:
    config = LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    config.save_pretrained(path)
    (path / "config.json").write_text(
        json.dumps(json.loads((path / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]})
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    where: dict[str, str] = {}
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        block = name.split(".")[2] if ".layers." in name else "rest"
        value = torch.empty(parameter.shape, dtype=torch.bfloat16, device=DEVICE)
        value = value.fill_(1.0) if value.ndim == 1 else value.normal_(std=0.02)
        shards.setdefault(f"model-{block}.safetensors", {})[name] = value.cpu()
    for file, tensors in shards.items():
        save_file(tensors, path / file)
        where |= dict.fromkeys(tensors, file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def main(arguments: list[str]) -> None:
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    if arguments[0] == "score-7b":
        generator = torch.Generator().manual_seed(0)
        windows = torch.randint(0, 32000, (WINDOWS, LENGTH), generator=generator)
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            make_7b(Path(folder))
            print(f"made in {time.perf_counter() - begin:.0f} s", flush=True)
            score(Path(folder), windows, "bfloat16", (0,), runs=2)
        return
    _, path, text, *rest = arguments
    tokens = read_text(Path(path), Path(text)).tokens
    count = int(rest[0]) if rest else WINDOWS
    windows = tokens[: count * LENGTH].reshape(-1, LENGTH)
    score(Path(path), windows, "float32", (0, 50_000), runs=2)


if __name__ == "__main__":
    main(sys.argv[1:])
