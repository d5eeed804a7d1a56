"""Perplexity of a model on texts, block by block; nothing of the size tokens x vocabulary is ever in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import exp, inf, log
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wncore.effort import Step
from wncore.errors import InputError, NonFiniteError
from wncore.evaluation import Begin, Convention, Evaluation, Plan
from wncore.resources import Memory
from wncore.sources import Named, nameless
from wncore.tick import Tick, idle
from wncore_torch.model import forecast
from wncore_torch.model.blocks import find_blocks, names_around
from wncore_torch.model.effort import forward_effort
from wncore_torch.model.folder import Folder
from wncore_torch.model.memory import begin_measuring, peak, room, saying_what_to_change
from wncore_torch.model.recording import Batch
from wncore_torch.model.stream import Block, Stream
from wncore_torch.model.text import Text, window_length
from wncore_torch.model.windows import Predictions, predict_rolling, predict_windows

CELLS = 2**26
"""Logits that are in memory at a time: 256 MiB in float32."""


@dataclass(frozen=True, eq=False)
class Question:
    """A text, cut into what the model is asked."""

    text: Text
    asked: Predictions
    plan: Plan


class Judging:
    """Texts in front of a model; `wncore.sources.Work`. Hidden states wait on the device if there is room, or `place`.

    `length` is the window, 2,048 or the model's limit by default, `windows` the most that are used, `batch` how many go
    through a block together.

    Raises
    ------
    InputError
        If an option is none of those that there are, or a text is shorter than a window.
    NotStreamable
        If the model has no blocks to run one by one.
    """

    def __init__(
        self,
        folder: Folder,
        texts: Sequence[Text],
        length: int | None = None,
        windows: int | None = None,
        bos: Begin = "no",
        convention: Convention = "windows",
        batch: int = 4,
        place: str | torch.device | None = None,
    ) -> None:
        if convention not in get_args(Convention):
            raise InputError(f"a convention is {' or '.join(get_args(Convention))}; got {convention!r}")
        if bos not in get_args(Begin):
            raise InputError(f"bos is {', '.join(get_args(Begin))}; got {bos!r}")
        self._folder, self._batch = folder, batch
        size = window_length(length, folder.limit)
        self._questions = [_question(folder, text, size, windows, bos, convention) for text in texts]
        self.plans = [one.plan for one in self._questions]
        self.device = str(folder.device)
        _, blocks = find_blocks(folder.model)
        self.steps = sum(len(one.asked.ids.split(batch)) for one in self._questions) * (len(blocks) + 1)
        self._place = torch.device(place or folder.device)
        self.base = begin_measuring(folder.device)
        free = room(folder.device)
        if place is None and free is not None and self._increase().device > free:
            self._place = torch.device("cpu")
        self.predicted = self.base + self._increase()

    def run(self, tick: Tick = idle, named: Named = nameless) -> Iterator[Evaluation]:
        """Judge the model on one text after the other.

        Raises
        ------
        NonFiniteError
            If the model gives NaN, as a narrow dtype may.
        NotStreamable
            If the model cannot be run block by block.
        MemoryBudgetError
            If memory does not suffice.
        """
        for one in self._questions:
            with saying_what_to_change(self.predicted):
                losses = token_losses(self._folder, one.asked, self._batch, self._place, tick, named)
            yield _answer(one, losses)

    def following(self) -> "list[Following]":
        """Return the texts, each in front of the first block of a model that somebody else leads them through."""
        return [Following(self._folder, one, self._batch, self._place) for one in self._questions]

    def effort(self) -> list[Step]:
        """Foretell the time, by trials of a moment."""
        texts = [one.asked.ids for one in self._questions]
        count, length = max(ids.shape for ids in texts)
        tokens = sum(ids.numel() for ids in texts)
        return forward_effort(self._folder, tokens, min(self._batch, count), length, head=True)

    def measured(self) -> Memory:
        """Return the peak since this was planned."""
        return peak(self._folder.device)

    def _increase(self) -> Memory:
        """Return the peak that is foretold, beside what is in use already."""
        most = Memory()
        for one in self._questions:
            ids = one.asked.ids
            count, length = min(self._batch, len(ids)), ids.shape[1]
            head = forecast.load_of(self._folder, names_around(self._folder, head=True))
            cells = min(max(CELLS, count * self._folder.vocabulary), count * length * self._folder.vocabulary)
            after = head.reading | head.held + forecast.logits(self._folder, cells)
            after += forecast.waiting(self._folder, ids.numel(), self._place)
            blocks = forecast.streaming(self._folder, ids.numel(), count, length, self._place)
            most |= (blocks | after) + forecast.beside(ids.numel())
        return most


class Following:
    """A text that goes through a model behind another: block by block, while the weights are in memory anyway."""

    def __init__(self, folder: Folder, question: Question, batch: int, place: torch.device) -> None:
        self._question, self._batch = question, batch
        self._stream = _stream(folder, question.asked, batch, place)

    def follow(self, block: Block) -> None:
        """Go through a block with the weights that it has now."""
        Block(self._stream, block.index, block.module).hand_on()

    def answer(self) -> Evaluation:
        """Judge the model, when all blocks were followed; errors are those of `Judging.run`."""
        return _answer(self._question, _losses_behind(self._stream, self._question.asked, self._batch))


def evaluate(
    folder: Folder,
    text: Text,
    length: int | None = None,
    windows: int | None = None,
    bos: Begin = "no",
    convention: Convention = "windows",
    batch: int = 4,
) -> Evaluation:
    """Judge a model on one text; options and errors are those of `Judging`."""
    return next(Judging(folder, [text], length, windows, bos, convention, batch).run())


def _question(
    folder: Folder, text: Text, size: int, windows: int | None, bos: Begin, convention: Convention
) -> Question:
    asked = (predict_windows if convention == "windows" else predict_rolling)(text, size, windows, bos)
    plan = Plan(
        tokens=int(asked.scored.sum()),
        windows=len(asked.ids),
        length=asked.ids.shape[1],
        bos=asked.bos,
        dtype=folder.computed_in,
        convention=convention,
    )
    return Question(text, asked, plan)


def token_losses(
    folder: Folder,
    asked: Predictions,
    batch: int = 4,
    place: str | torch.device | None = None,
    tick: Tick = idle,
    named: Named = nameless,
) -> Tensor:
    """Return the negative log-likelihood of each target, (w, l) float32 on the host, in nats."""
    stream = _stream(folder, asked, batch, place)
    for block in stream.blocks():
        named(block.name)
        with _ticking(block.module, tick):
            block.hand_on()
    named("logits")
    return _losses_behind(stream, asked, batch, tick)


def _stream(folder: Folder, asked: Predictions, batch: int, place: str | torch.device | None) -> Stream:
    return Stream(folder, [Batch(ids) for ids in asked.ids.split(batch)], place=place)


def _losses_behind(stream: Stream, asked: Predictions, batch: int, tick: Tick = idle) -> Tensor:
    """Return the losses of a stream that all blocks were run on."""
    losses = torch.empty(asked.ids.shape)
    for number, begin, logits in stream.logits(max(1, CELLS // stream.folder.vocabulary)):
        rows = slice(number * batch, number * batch + len(logits))
        columns = slice(begin, begin + logits.shape[1])
        targets = asked.targets[rows, columns].to(logits.device)
        found = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        losses[rows, columns] = found.reshape(targets.shape).cpu()
        tick(int(columns.stop == asked.ids.shape[1]))
    return losses


@contextmanager
def _ticking(block: nn.Module, tick: Tick) -> Iterator[None]:
    """Tell of each batch that went through a block within the `with`."""

    def tell(*_: object) -> None:
        tick(1)

    hook = block.register_forward_hook(tell)
    try:
        yield
    finally:
        hook.remove()


def _answer(question: Question, losses: Tensor) -> Evaluation:
    text, asked, plan = question.text, question.asked, question.plan
    scored = losses[asked.scored].double()
    if bool(scored.isnan().any()):
        raise NonFiniteError(
            f"the model gives NaN for {int(scored.isnan().sum())} of {len(scored)} tokens; run it in a wider type, "
            f"with --dtype float32"
        )
    total = scored.sum().item()
    mean = total / len(scored)
    complete = plan.convention == "harness" and len(scored) == len(text.tokens) + asked.bos
    return Evaluation(
        **asdict(plan),
        perplexity=_exp(mean),
        bits_per_byte=mean / log(2) * len(text.tokens) / text.bytes,
        word_perplexity=_exp(total / text.words) if complete else None,
    )


def _exp(value: float) -> float:
    return exp(value) if value < 700 else inf
