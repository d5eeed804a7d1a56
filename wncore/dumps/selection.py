"""Which layers of a dump a command can work on, and what becomes of the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from wncore.dumps.dump import Dump
from wncore.dumps.layer import Layer
from wncore.errors import DumpError, TooFewTokensError, listed
from wncore.failures import Failure, attempt, first_of

Need = Literal["scorable", "prunable", "expandable"]
"""What a layer must be."""

LACKS = {
    "scorable": "lack an output, or an input and a weight,",
    "prunable": "lack a weight, or an input or gram,",
    "expandable": "lack an input or a weight,",
}
NOTHING = {
    "scorable": "{source} holds weights but no activations of {names}; a dump needs each layer's output, or its input "
    "and weight",
    "prunable": "{source} cannot be pruned: none of {names} has a weight and an input, or its gram",
    "expandable": "{source} cannot be expanded: none of {names} has a weight and an input to cluster",
}


@dataclass(frozen=True)
class Selection:
    """The layers that were chosen, sorted by what can be done with them."""

    need: Need
    ready: list[Layer] = field(default_factory=list[Layer])
    lacking: list[str] = field(default_factory=list[str])
    """Names of those that do not have the tensors it takes."""
    idle: dict[str, str] = field(default_factory=dict[str, str])
    """Those with too few tokens, and how many there are, in words."""
    failed: list[Failure] = field(default_factory=list[Failure])

    @property
    def notes(self) -> list[str]:
        """Say what is passed over."""
        notes: list[str] = []
        if self.lacking:
            notes.append(f"{len(self.lacking)} layers {LACKS[self.need]} and are left out: {listed(self.lacking)}")
        if self.idle:
            notes.append(
                f"{len(self.idle)} layers are empty or have fewer than 2 tokens that count, and are passed over: "
                f"{listed(list(self.idle))}"
            )
        return notes


def choose(dump: Dump, names: Sequence[str], need: Need, skip_tokens: int = 0) -> Selection:
    """Sort the named layers; of those that are not named, nothing is judged.

    Raises
    ------
    WncoreError
        If none is ready: what was wrong with the first that failed, else with the first that has too few tokens.
    """
    found = Selection(need)
    for name in names:
        _sort(dump, dump.layers[name], found, skip_tokens)
    if not found.ready:
        raise _nothing(dump, names, found)
    return found


def _sort(dump: Dump, layer: Layer, found: Selection, skip_tokens: int) -> None:
    with attempt(layer.name, lambda name, error: found.failed.append(Failure(name, error))):
        if layer.fault is None and not getattr(layer, found.need):
            if found.need == "scorable" and layer.input is not None and not _is_lent(dump, layer):
                raise _input_alone(layer.name)
            found.lacking.append(layer.name)
            return
        try:
            layer.check()
            if found.need == "scorable" or layer.input is not None:
                layer.tokens(skip_tokens)
        except TooFewTokensError as error:
            found.idle[layer.name] = str(error)
            return
        found.ready.append(layer)


def _is_lent(dump: Dump, layer: Layer) -> bool:
    """Whether another layer reads the input of one, by `wncore.shared_inputs`; it may have no other use."""
    return any(other.input is layer.input for other in dump.layers.values() if other is not layer)


def _input_alone(name: str) -> DumpError:
    return DumpError(f"{name} has an input but no weight and no output; add one, or leave it out: --exclude")


def _nothing(dump: Dump, names: Sequence[str], found: Selection) -> Exception:
    """Make the error of a selection without a layer that is ready; what else there is becomes notes of it."""
    failed, idle = found.failed, list(found.idle)
    if failed:
        error = first_of(failed)
    elif idle:
        more = f"; so it is with {len(idle) - 1} more: {listed(idle[1:])}" if idle[1:] else ""
        error = TooFewTokensError(found.idle[idle[0]] + more)
    elif found.need == "scorable" and (alone := [name for name in names if dump.layers[name].input is not None]):
        return _input_alone(alone[0])
    else:
        return DumpError(NOTHING[found.need].format(source=dump.source, names=listed(list(names))))
    for note in found.notes[: None if failed else len(found.lacking) > 0]:
        error.add_note(note)
    return error
