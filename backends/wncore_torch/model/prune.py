"""A model whose layers are replaced while it reads: weights go into its blocks, and into a copy of its folder."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from wncore.backend import Backend
from wncore.effort import Step
from wncore.errors import InputError
from wncore.evaluation import Evaluation
from wncore.files import check_new_folder, new_folder
from wncore.layers.activations import Activations
from wncore.sources import Named, Order, nameless
from wncore_torch.model import forecast
from wncore_torch.model.evaluate import Following, Judging
from wncore_torch.model.folder import set_parameter
from wncore_torch.model.held import to_tensor
from wncore_torch.model.linears import Linear
from wncore_torch.model.patched import Change, Patch, check_way_back
from wncore_torch.model.stream import Block
from wncore_torch.model.text import read_text

if TYPE_CHECKING:
    from wncore_torch.model.source import ModelSource


class Replacing:
    """A model whose chosen layers get other weights, one after the other, in the order in which they run.

        with Replacing(source, chosen, order="published", output=path, texts=texts) as work:
            for opened in work.activations(backend):
                work.replace(opened.name, weights)
            print(work.answers())

    Each text goes through a block once its layers are done: it judges the model that is written. At the end of the
    `with` the folder is there, whole; if something fails, it is not.

    Raises
    ------
    InputError
        If weights cannot be written back, a text is too short, or the output lies in the folder itself.
    WncoreError
        As `check_new_folder`.
    """

    def __init__(
        self,
        source: "ModelSource",
        chosen: Collection[str],
        *,
        order: Order = "published",
        output: Path | None = None,
        texts: Sequence[Path] = (),
    ) -> None:
        self.source, self.order, self.output = source, order, output
        self.chosen = [layer for layer in source.linears.layers if layer.name in set(chosen)]
        check_way_back(source.folder, self.chosen)
        length, path = source.windows.shape[1], source.folder.path
        read = [read_text(path, text) for text in texts]
        self._judging = Judging(source.folder, read, length, batch=source.batch) if read else None
        self.plans = self._judging.plans if self._judging else []
        self.disk = 0
        if output is not None:
            if output.resolve().is_relative_to(path.resolve()):
                raise InputError(f"{output} is in the folder that is read; name another place")
            self.disk = sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
            check_new_folder(output, self.disk)
        self._weights: dict[Linear, Tensor] = {}
        self._own: set[str] = set()
        self._patch: Patch | None = None
        self._following: list[Following] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Replacing":
        if self.output is not None:
            self._patch = Patch(self.source.folder, self._stack.enter_context(new_folder(self.output)))
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    @property
    def changes(self) -> list[Change]:
        """The tensors that were written."""
        return self._patch.changes if self._patch else []

    def foretell(self, state: int, memory: int) -> None:
        """Foretell the peak, as `ModelSource.foretell`: texts that follow wait beside the one that is read."""
        source = self.source
        source.foretell([layer.name for layer in self.chosen], ("input",), state, memory)
        tokens = sum(plan.windows * plan.length for plan in self.plans)
        source.predicted += forecast.waiting(source.folder, tokens, source.folder.device) + forecast.beside(tokens)

    def effort(self) -> list[Step]:
        """Foretell the time of the forwards, by trials of a moment: to calibrate, and to judge."""
        steps = list(self.source.effort())
        inputs = len({layer.reads for layer in self.chosen if layer.block == self.chosen[0].block})
        passes = {"dense": 1, "published": 2, "sequential": 1 + inputs}
        steps = [replace(one, amount=one.amount * passes[self.order]) for one in steps]
        if self._judging is not None:
            steps += [replace(one, name=f"{one.name}, judging") for one in self._judging.effort()]
        return steps

    def activations(self, backend: Backend, *, named: Named = nameless, **options: Any) -> Iterator[Activations]:
        """Yield the chosen layers with their inputs, as `ModelSource.activations`; `named` is told of blocks done."""
        self._following = self._judging.following() if self._judging else []

        def finished(block: Block) -> None:
            for text in self._following:
                text.follow(block)
            if self._patch is not None:
                self._patch.write(self._weights)
            self._weights.clear()
            self._own.clear()
            named(block.name)

        chosen = [layer.name for layer in self.chosen]
        options = {"parts": ("input",), "order": self.order, "finished": finished} | options
        yield from self.source.activations(chosen, backend, **options)

    def replace(self, name: str, weight: NDArray[Any]) -> None:
        """Give a layer that was yielded other weights (m, d), in the dtype of the file.

        Raises
        ------
        InputError
            If they have another shape.
        """
        layer, model = self.source.layers[name], self.source.folder.model
        if weight.shape != layer.shape:
            raise InputError(f"{name} has weights {layer.shape}; got {weight.shape}")
        new = to_tensor(weight)
        if layer.parameter not in self._own:  # what the host has is the file's memory, and is not to be written into
            set_parameter(model, layer.parameter, model.get_parameter(layer.parameter).detach().clone())
            self._own.add(layer.parameter)
        with torch.no_grad():
            layer.weight_of(model.get_parameter(layer.parameter)).copy_(new)
        self._weights[layer] = new

    def answers(self) -> list[Evaluation]:
        """Judge the model by each text, when all layers were replaced."""
        return [text.answer() for text in self._following]
