"""Make data/smollm2-135m: real inputs and weights of four feed-forward layers of SmolLM2-135M-Instruct.

usage: python data/make_smollm2_dump.py MODEL_FOLDER TEXT_FILE OUT_FOLDER

MODEL_FOLDER is the model as a Hugging Face folder, TEXT_FILE the raw WikiText-2 validation split (README.md names both
sources). Needs torch and transformers. The text is tokenised as it is, without BOS; the windows are its first ones.
"""

import hashlib
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from wncore.dumps import write_dump

LENGTH = 1024
LARGE = ("model.layers.9.mlp.up_proj", 16)
SMALL = [("model.layers.1.mlp.up_proj", 2), ("model.layers.28.mlp.up_proj", 2)]
SHARED = {"model.layers.9.mlp.gate_proj": "model.layers.9.mlp.up_proj"}
SHARD = 7_500_000


def bfloat16(tensor: torch.Tensor) -> np.ndarray:
    return tensor.to(torch.bfloat16).contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)


def main(folder: str, text_file: str, out: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(Path(text_file).read_text(), return_tensors="pt").input_ids[0]
    windows = tokens[: LARGE[1] * LENGTH].reshape(-1, LENGTH)
    wanted = dict([LARGE, *SMALL])
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}
    for name in wanted:
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen[name].append(args[0][0].clone())
        )
    with torch.inference_mode():
        for window in windows:
            model(window[None])
    tensors = {}
    for name, count in wanted.items():
        tensors[f"{name}.input"] = bfloat16(torch.cat(seen[name][:count]))
    for name in [*wanted, *SHARED]:
        tensors[f"{name}.weight"] = bfloat16(model.get_submodule(name).weight.detach())
    digest = hashlib.sha256(Path(text_file).read_bytes()).hexdigest()[:16]
    written = write_dump(
        out,
        tensors,
        model="SmolLM2-135M-Instruct",
        text=f"WikiText-2 raw, validation, first {len(windows)} windows of {LENGTH} tokens (sha256 {digest})",
        sequence_length=LENGTH,
        shared_inputs=SHARED,
        shard_bytes=SHARD,
        force=True,
    )
    for path in written:
        print(f"{path.stat().st_size:9d}  {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
