"""Make data/tiny-llm: a Llama of 1.4 million parameters, trained on text that every CPython ships.

The text is pydoc's topics and the docstrings of the standard library, one document for each topic and each module.
One Python version gives one corpus and one tokenizer; the weights depend on device and versions in their last bits, as
any training does. Needs tokenizers; training needs torch and transformers. `--corpus-only` and `--train` are the two
halves, for when the GPU is on a machine with another Python.
"""

import ast
import json
import math
import random
import sys
import sysconfig
from pathlib import Path
from typing import Any

import click

EOS = "<|endoftext|>"
VOCABULARY = 2048
LENGTH = 256
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "__pycache__"}
SPLITS = {"heldout": 90_000, "calibration": 200_000}  # bytes; the rest is train.txt
ARCHITECTURE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 160,
    "intermediate_size": 416,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": 0,
}
LICENCE = """\
The text in this folder (calibration.txt, heldout.txt, and what tokenizer and model were trained on) is taken from
Python {version}: pydoc's topics and the docstrings of the standard library. Copyright (c) 2001 Python Software
Foundation; All Rights Reserved. It is reordered, and repeated paragraphs are left out. Python's licence follows; the
licences of modules that have their own are listed at https://docs.python.org/{version}/license.html.

"""


def docstrings(path: Path) -> str:
    """All docstrings of a module, its classes and functions, in the order of its lines."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def documents() -> list[str]:
    """Topics and modules in the order of their names; a paragraph that was seen before, in any of them, is left out."""
    from pydoc_data.topics import topics

    library = Path(sysconfig.get_path("stdlib"))
    # config-* and _sysconfigdata* differ from platform to platform
    names = sorted(path.relative_to(library).as_posix() for path in library.rglob("*.py"))
    names = [name for name in names if not SKIPPED & set(name.split("/")) and not name.startswith(("config-", "_sysc"))]
    seen: set[str] = set()
    found = []
    for text in [*(topics[name] for name in sorted(topics)), *(docstrings(library / name) for name in names)]:
        kept = []
        for paragraph in "\n".join(line.rstrip() for line in text.splitlines()).split("\n\n"):
            key = " ".join(paragraph.lower().split())
            if key and key not in seen:
                kept.append(paragraph.strip("\n"))
                seen.add(key)
        if kept:
            found.append("\n\n".join(kept) + f"\n{EOS}\n")
    return found


def split(found: list[str]) -> dict[str, str]:
    """Shuffled documents, joined: held-out text first, then calibration, each until it has its bytes, then training."""
    random.Random(0).shuffle(found)
    rest = iter(found)
    texts = {}
    for name, wanted in SPLITS.items():
        texts[name] = ""
        while len(texts[name].encode()) < wanted:
            texts[name] += next(rest)
    return texts | {"train": "".join(rest)}


def train_tokenizer(text: str, out: Path) -> None:
    """Write a byte-level BPE as the two files that transformers reads, 4.45 and 5 alike."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split(EOS), trainer)
    (out / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n")
    settings = {
        # save_pretrained of transformers 5 writes a class that 4 does not know
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": ARCHITECTURE["max_position_embeddings"],
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def make_corpus(out: Path) -> None:
    from tokenizers import Tokenizer

    found = documents()
    texts = split(found)
    train_tokenizer(texts["train"], out)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    for name, text in texts.items():
        (out / f"{name}.txt").write_text(text, encoding="utf-8")
        tokens, count = len(tokenizer.encode(text).ids), text.count(EOS)
        click.echo(f"{name:12s} {count:4d} documents  {len(text.encode()):8d} bytes  {tokens:7d} tokens")
    licence = (Path(sysconfig.get_path("stdlib")) / "LICENSE.txt").read_text(encoding="utf-8")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (out / "LICENSE.txt").write_text(LICENCE.format(version=version) + licence, encoding="utf-8")


def read_windows(out: Path, name: str) -> Any:
    """Tokens of a text as windows, (windows, length); what is left over at the end is dropped."""
    import torch
    from tokenizers import Tokenizer

    text = (out / f"{name}.txt").read_text(encoding="utf-8")
    tokens = torch.tensor(Tokenizer.from_file(str(out / "tokenizer.json")).encode(text).ids)
    return tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)


def cross_entropy(model: Any, windows: Any, device: str) -> float:
    """Mean over all tokens but the first of each window, in nats."""
    import torch

    model.to(device).eval()
    with torch.inference_mode():
        parts = [model(part.to(device), labels=part.to(device)).loss.item() * len(part) for part in windows.split(32)]
    return math.fsum(parts) / len(windows)


def new_model(seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**ARCHITECTURE))
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):  # the residual stream adds up two of them a layer
            weight.data /= math.sqrt(2 * ARCHITECTURE["num_hidden_layers"])
    return model


def train(out: Path, device: str, steps: int, seed: int, rate: float, batch: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    # calibration text is looked at while training; the held-out text once, at the end
    heldout, calibration, tokens = (read_windows(out, name) for name in ("heldout", "calibration", "train"))
    tokens = tokens.flatten()
    model = new_model(seed).to(device)
    count = sum(weight.numel() for weight in model.parameters())
    groups = [
        {"params": [weight for weight in model.parameters() if weight.ndim == 2], "weight_decay": 0.1},
        {"params": [weight for weight in model.parameters() if weight.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.55 + 0.45 * math.cos(math.pi * max(0, step - warm) / (steps - warm))),
    )
    draws = torch.Generator().manual_seed(seed)  # on the CPU, so that every device sees the same windows
    epochs = steps * batch * LENGTH / len(tokens)
    click.echo(f"{count} parameters; {steps} steps of {batch} windows, {epochs:.1f} epochs", err=True)
    for step in range(1, steps + 1):
        starts = torch.randint(len(tokens) - LENGTH + 1, (batch, 1), generator=draws)
        windows = tokens[starts + torch.arange(LENGTH)].to(device)
        loss = model.train()(windows, labels=windows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % max(10, steps // 15) == 0:
            judged = cross_entropy(model, calibration, device)
            click.echo(f"step {step:5d}  training {loss.item():.3f}  calibration text {judged:.3f} nats", err=True)
    model.bfloat16().save_pretrained(out)
    # what is judged is what is stored; a model cast back would keep its rotary frequencies rounded
    stored = AutoModelForCausalLM.from_pretrained(out).float()
    perplexity = math.exp(cross_entropy(stored, heldout, device))
    click.echo(f"{count} parameters, held-out perplexity {perplexity:.2f} ({len(heldout)} windows of {LENGTH} tokens)")


@click.command(help=__doc__)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--corpus-only", "part", flag_value="corpus", help="Only texts and tokenizer; no torch needed.")
@click.option("--train", "part", flag_value="train", help="Only train, on the texts that OUT holds.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--steps", default=1500, show_default=True, type=click.IntRange(2), help="A few are enough for a try.")
@click.option("--seed", default=0, show_default=True)
@click.option("--rate", default=3e-3, show_default=True, help="Learning rate at its peak.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1), help="Windows of 256 tokens a step.")
def main(out: Path, part: str | None, device: str, steps: int, seed: int, rate: float, batch: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if part != "train":
        make_corpus(out)
    elif not (out / "train.txt").exists():
        raise click.UsageError(f"{out} has no train.txt, which is not kept with the model; make it with --corpus-only")
    if part != "corpus":
        train(out, device, steps, seed, rate, batch)


if __name__ == "__main__":
    main()
