"""Tiny random language models of many families, as folders like the hub's: what tests of models start from."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch.nn.functional import linear  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

LENGTH, WINDOW = 24, 8
"""Of every batch here, and of every sliding window, which is shorter."""
SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SLIDING = {"sliding_window": WINDOW}
QWEN = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
GEMMA = SLIDING | {"head_dim": 8, "query_pre_attn_scalar": 8}
LAYERS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
MOE = {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
ROUTED = {"moe_intermediate_size": 24, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
FAMILIES = {  # name -> model type, options beside SMALL
    "llama": ("llama", {}),
    "smollm2": ("llama", {"tie_word_embeddings": True, "dtype": "bfloat16", "sharded": True}),
    "mistral": ("mistral", SLIDING),
    "qwen2": ("qwen2", QWEN),
    "qwen3": ("qwen3", QWEN | {"head_dim": 8}),
    "gemma2": ("gemma2", GEMMA | {"tie_word_embeddings": True}),
    "gemma3": ("gemma3_text", GEMMA | LAYERS),
    "pythia": ("gpt_neox", {}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt, norm after": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "gpt2": ("gpt2", {}),
    "phi3": ("phi3", SLIDING),
    "falcon": ("falcon", {"multi_query": True, "parallel_attn": True, "bias": False}),
    "falcon, alibi": ("falcon", {"alibi": True, "parallel_attn": False, "bias": True, "multi_query": False}),
    "mixtral": ("mixtral", SLIDING | {"num_local_experts": 12}),
    "qwen2_moe": ("qwen2_moe", QWEN | MOE),
    "gpt_oss": ("gpt_oss", SLIDING | LAYERS | {"num_local_experts": 4, "head_dim": 8}),
    "deepseek_v3": ("deepseek_v3", ROUTED | LATENT | {"first_k_dense_replace": 1}),
    "llama4": (
        "llama4_text",
        {"num_local_experts": 4, "num_experts_per_tok": 1, "head_dim": 8, "intermediate_size_mlp": 48}
        | {"attention_chunk_size": WINDOW},
    ),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
}
"""What must stream."""
REFUSED = {
    "dory": ("dory", {"n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1, "n_recurrent_loops": 2}),
    "glm_moe_dsa": ("glm_moe_dsa", ROUTED | {"n_routed_experts": 4, "n_group": 1, "num_key_value_heads": 4}),
    "gemma3n": (
        "gemma3n_text",
        SLIDING
        | LAYERS
        | {"head_dim": 8, "hidden_size_per_layer_input": 8, "laurel_rank": 8, "vocab_size_per_layer_input": 128}
        | {"num_kv_shared_layers": 1, "activation_sparsity_pattern": [0.0, 0.0, 0.0]},
    ),
}
"""What must not, by name."""


def make(path: Path, name: str, **more) -> Path:
    """Write a random model of a family as a folder, its names as the hub has them."""
    kind, options = (FAMILIES | REFUSED)[name]
    return make_kind(path, kind, {**options, **more})


def make_kind(path: Path, kind: str, options: dict) -> Path:
    """Write a random model of a transformers type; norms and biases are no ones and zeros, so that an order shows."""
    options = dict(options)
    sharded, dtype = options.pop("sharded", False), getattr(torch, options.pop("dtype", "float32"))
    config = AutoConfig.for_model(kind, **(SMALL | options))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        state = model.state_dict()
        for buffer_name, buffer in model.named_buffers():
            if buffer_name in state and buffer.is_floating_point():
                buffer += torch.randn_like(buffer)
    model.save_pretrained(path, max_shard_size="15KB" if sharded else "5GB")
    if kind == "gpt2":  # saved in 2019: no base prefix, no lm_head, and the masks of each block
        edit_tensors(path, lambda old: {k.removeprefix("transformer."): v for k, v in old.items() if k[:3] != "lm_"})
        edit_tensors(path, lambda old: old | {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64).tril() for i in range(3)})
        edit_config(path, tie_word_embeddings=True)
    return path


def stored_tensors(path: Path) -> dict:
    """Return all tensors of a folder's files, by name."""
    return {name: value for file in path.glob("*.safetensors") for name, value in load_file(file).items()}


def edit_tensors(path: Path, change) -> None:
    """Write what `change` makes of the tensors of a folder of one file."""
    file = path / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def edit_config(path: Path, **new) -> None:
    """Change entries of config.json."""
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | new))


def plain_model(path: Path, dtype: str = "float32", **options):
    """Load a folder as everyone does."""
    options = {"experts_implementation": "eager"} | options
    return AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), **options).eval()


def sample_batches():
    """Three batches (ids, mask): two sequences, two of which one is padded on the left, and one alone."""
    ids = torch.randint(3, 128, (5, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[1, :5] = False
    return [(ids[:2], None), (ids[2:4], mask), (ids[4:], None)]


@torch.no_grad()
def plain_logits(model, batches):
    """Logits of each batch, by the model's own forward."""
    return [
        model(input_ids=ids, attention_mask=None if mask is None else mask.long(), use_cache=False).logits
        for ids, mask in batches
    ]


def largest_gap(ours, theirs, batches):
    """The largest difference of logits where there is no padding."""
    gaps = [
        (a - b).abs()[torch.ones_like(ids, dtype=torch.bool) if mask is None else mask].max()
        for a, b, (ids, mask) in zip(ours, theirs, batches, strict=True)
    ]
    return torch.stack(gaps).max().item()  # not Python's max, which lets NaN pass


def collect(folder, linears, batches=None, only=None):
    """All that the layers read, by layer and batch: x, tokens; and the rows that each read. What they give is right."""
    from wncore_torch.model.recording import Batch
    from wncore_torch.model.stream import Stream

    batches = batches or sample_batches()
    seen, rows = defaultdict(list), {}
    stream = Stream(folder, [Batch(ids, mask) for ids, mask in batches], linears)
    for block in stream.blocks():

        def meet(read, block=block):
            seen[read.layer.name, read.batch].append((read.x.clone(), read.tokens))
            bias = block.bias(read.layer)
            y = linear(read.x, block.weight(read.layer), bias)
            assert (y - read.y).abs().max() <= 1e-4 * (1 + y.abs().max()), read.layer.name

        rows |= block.hand_on(meet, only)
    return seen, rows
