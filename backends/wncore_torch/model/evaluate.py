"""Perplexity of a model on a text, block by block; nothing of the size tokens x vocabulary is ever in memory."""

from dataclasses import asdict, dataclass
from math import exp, inf, log
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from wncore.errors import InputError, NonFiniteError
from wncore_torch.model.folder import Folder
from wncore_torch.model.recording import Batch
from wncore_torch.model.stream import Stream
from wncore_torch.model.text import Text, window_length
from wncore_torch.model.windows import Begin, Convention, Predictions, predict_rolling, predict_windows

SCHEMA = "wncore.eval/1"
CELLS = 2**26
"""Logits that are in memory at a time: 256 MiB in float32."""


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a text."""

    perplexity: float
    """exp of the mean negative log-likelihood of the tokens scored"""
    bits_per_byte: float
    """that mean in bits, times the text's tokens per byte; comparable between tokenizers"""
    word_perplexity: float | None
    """exp of the sum over the words of the text; None unless every token of it was scored"""
    tokens: int
    """scored"""
    windows: int
    length: int
    bos: bool
    """whether the text, or each window, was begun with the token for it"""
    dtype: str
    """of the forward; losses are taken in float32 and summed in float64"""
    convention: Convention

    def document(self) -> dict[str, Any]:
        """Return the document ``wncore.eval/1`` without its source; what is infinite or undefined is null."""
        return {name: None if value in (inf, None) else value for name, value in asdict(self).items()}


def evaluate(
    folder: Folder,
    text: Text,
    length: int | None = None,
    windows: int | None = None,
    bos: Begin | None = None,
    convention: Convention = "windows",
    batch: int = 4,
    place: str | torch.device | None = None,
) -> Evaluation:
    """Judge a model on a text, by disjoint windows or the rolling ones of lm-evaluation-harness.

    `length` is the window, 2,048 or the model's limit by default, `windows` the most that are used, `batch` how many go
    through a block together, `place` where hidden states wait. `bos` is "no" unless given.

    Raises
    ------
    InputError
        If an option is none of those, or the text is shorter than a window.
    NonFiniteError
        If the model gives NaN, as a narrow dtype may.
    NotStreamable
        If the model cannot be run block by block.
    """
    if convention not in get_args(Convention):
        raise InputError(f"a convention is {' or '.join(get_args(Convention))}; got {convention!r}")
    if (bos or "no") not in get_args(Begin):
        raise InputError(f"bos is {', '.join(get_args(Begin))}; got {bos!r}")
    size = window_length(length, folder.limit)
    predict = predict_windows if convention == "windows" else predict_rolling
    asked = predict(text, size, windows, bos or "no")
    total, tokens = _sum(token_losses(folder, asked, batch, place), asked)
    mean = total / tokens
    complete = convention == "harness" and tokens == len(text.tokens) + asked.bos
    return Evaluation(
        perplexity=_exp(mean),
        bits_per_byte=mean / log(2) * len(text.tokens) / text.bytes,
        word_perplexity=_exp(total / text.words) if complete else None,
        tokens=tokens,
        windows=len(asked.ids),
        length=asked.ids.shape[1],
        bos=asked.bos,
        dtype=str(folder.dtype).removeprefix("torch."),
        convention=convention,
    )


def token_losses(folder: Folder, asked: Predictions, batch: int = 4, place: str | torch.device | None = None) -> Tensor:
    """Return the negative log-likelihood of each target, (w, l) float32 on the host, in nats."""
    stream = Stream(folder, [Batch(ids) for ids in asked.ids.split(batch)], place=place)
    for _ in stream.blocks():
        pass
    losses = torch.empty(asked.ids.shape)
    for number, begin, logits in stream.logits(max(1, CELLS // folder.vocabulary)):
        rows = slice(number * batch, number * batch + len(logits))
        columns = slice(begin, begin + logits.shape[1])
        targets = asked.targets[rows, columns].to(logits.device)
        found = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        losses[rows, columns] = found.reshape(targets.shape).cpu()
    return losses


def _sum(losses: Tensor, asked: Predictions) -> tuple[float, int]:
    scored = losses[asked.scored].double()
    if bool(scored.isnan().any()):
        raise NonFiniteError(
            f"the model gives NaN for {int(scored.isnan().sum())} of {len(scored)} tokens; run it in a wider type, "
            f"with --dtype float32"
        )
    return scored.sum().item(), len(scored)


def _exp(value: float) -> float:
    return exp(value) if value < 700 else inf
