"""What ``wncore score`` says of a model beside its scores: what was looked at, and the memory that it takes."""

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from wncore_cli.plans import extent
from wncore_cli.reading import Reading

if TYPE_CHECKING:
    from wncore.effort import Step
    from wncore.scoring import LayerScore


def foretell(reading: Reading, memory: int, pairs: int) -> None:
    """Say what memory it will take: what is held of a block, and the state of a layer's neurons beside it."""
    from wncore.scoring import at_once, state_of

    shapes = [reading.model.layers[name].shape for name in reading.names]
    state = max(at_once(m, d, memory) * state_of(d) for m, d in shapes)
    reading.model.foretell(reading.names, ("input", "output") if pairs else ("output",), state, memory)


def effort(reading: Reading, settings: dict[str, Any], exactly: Collection[str]) -> "list[Step]":
    """Foretell the time: of the forward, and of scoring, that of the layers that are scored exactly apart."""
    from wncore.scoring_effort import distance_effort, pairs_effort

    model, trial = reading.model, partial(reading.model.trial, reading.engine)
    layers = {name: model.layers[name] for name in reading.names}
    exact = sum(layers[name].shape[0] for name in exactly)
    neurons = sum(layer.shape[0] for layer in layers.values())
    inputs = {layer.reads: layer.shape[1] for layer in layers.values()}
    steps = list(model.effort())
    counts: list[tuple[Any, int]] = [(settings["estimator"], neurons - exact), ("exact", exact)]
    for estimator, count in counts:
        steps += [distance_effort(trial, model.tokens, count, estimator)] if count else []
    steps += pairs_effort(trial, model.tokens, neurons, list(inputs.values()), settings["pairs"])
    return steps


def resources(reading: Reading) -> dict[str, Any]:
    """Return what the document on stdout says of memory; nothing for a dump."""
    from wncore_cli.resource_tables import resources_document

    return resources_document(reading.model, reading.model.measured()) if reading.model else {}


def summary(scores: list["LayerScore"], reading: Reading) -> str:
    """Say what of the model was looked at, on what text, and what it took."""
    from wncore_cli.resource_tables import resources_table

    sinks = max((one.sinks or 0 for one in scores), default=0)
    lines = [
        "",
        extent(scores, reading.described),
        f"attention sinks, tokens whose input is over 10 times longer than the median: {sinks} in the layer with most",
        "",
        resources_table(reading.model, reading.model.measured()),
    ]
    return "\n".join(lines)
