"""Which of all causal language models of the installed transformers stream: one line each.

python tests/sweep_models.py [type ...]; minutes for all. Each is built tiny and random, from generic options. The exit
status is 1 if one that was built neither streams to the last bit nor is refused by name.
"""

import sys
import tempfile
from pathlib import Path

import torch
import transformers
from model_families import LATENT, SMALL, WINDOW, largest_gap, make_kind, plain_logits, plain_model, sample_batches
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from wncore.errors import WncoreError
from wncore_torch.model.linears import find_linears
from wncore_torch.model.opening import open_folder
from wncore_torch.model.recording import Batch
from wncore_torch.model.stream import Stream

EXPERTS = {
    **dict.fromkeys(["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"], 4),
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "decoder_layers": 3,
    "decoder_ffn_dim": 48,
    "ffn_dim": 48,
    "decoder_attention_heads": 4,
    "rotary_dim": 8,
    "attn_layer_indices": [1],
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
}
OPTIONS = [EXPERTS | {"sliding_window": WINDOW, "head_dim": 8}, EXPERTS | LATENT, EXPERTS, {}]
BATCHES = sample_batches()
STREAMS, REFUSED, WRONG, UNBUILT = "streams", "refused", "WRONG", "not built"


def build(path: Path, kind: str) -> str:
    """Write a tiny model of a type by the first options whose own forward runs; say what went wrong, or nothing."""
    error = ""
    for number, options in enumerate(OPTIONS):
        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | options))
            if sum(parameter.numel() for parameter in model.parameters()) > 2e7:
                error = "too large with these options"
                continue
            make_kind(path / str(number), kind, options)
            plain_logits(plain_model(path / str(number)), BATCHES)
        except Exception as cause:  # whatever a config or a model says to options that are not its own
            error = f"{type(cause).__name__}: {str(cause)[:80]!r}"
            continue
        (path / str(number)).rename(path / "model")
        return ""
    return error


def check(path: Path) -> tuple[str, str]:
    """Stream a folder and watch it: what became of it, and the share of its parameters that are linear layers."""
    try:
        folder = open_folder(path)
        linears = find_linears(folder)
        stream = Stream(folder, [Batch(ids, mask) for ids, mask in BATCHES], linears)
        rows, unknown = dict[str, int](), set[str]()
        for block in stream.blocks():
            plain = [one for one in stream.recorded if one.batch.mask is None]
            every, stream.recorded = stream.recorded, plain  # some experts hide which of their rows are padding
            rows |= block.run(lambda read: unknown.add(read.layer.name) if read.tokens is None else None)
            stream.recorded = every
    except WncoreError as error:
        return REFUSED, str(error)[:120]
    except Exception as error:
        return WRONG, f"{type(error).__name__}: {str(error)[:120]}"
    logits = [logits for _, _, logits in stream.logits(10_000)]
    gap = largest_gap(logits, plain_logits(plain_model(path), BATCHES), BATCHES)
    share = linears.covered / max(linears.parameters, 1)
    told = f"{share:4.0%} of {len(linears.layers)} layers, {sum(not n for n in rows.values())} idle"
    told += f", tokens unknown in {len(unknown)}" if unknown else ""
    told += f"; uncovered {', '.join(linears.uncovered[:2])}" if linears.uncovered else ""
    return (STREAMS if gap == 0 else WRONG), told if gap == 0 else f"gap {gap:.0e}"


def sweep(kinds: list[str]) -> int:
    counts = dict.fromkeys([STREAMS, REFUSED, WRONG, UNBUILT], 0)
    for kind in kinds:
        with tempfile.TemporaryDirectory() as work:
            result, told = UNBUILT, build(Path(work), kind)
            if not told:
                result, told = check(Path(work) / "model")
        counts[result] += 1
        print(f"{kind:28s} {result:9s} {told}", flush=True)
    print(f"transformers {transformers.__version__}:", ", ".join(f"{count} {name}" for name, count in counts.items()))
    return int(counts[WRONG] > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sys.exit(sweep(sys.argv[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)))
