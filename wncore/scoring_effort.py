"""The time that scoring takes beside a model's forward, foretold by trials on random numbers."""

from collections.abc import Callable, Sequence

from wncore.effort import Step, measure
from wncore.layers.activations import Activations
from wncore.mapping import draw_afresh
from wncore.outputs import Outputs
from wncore.scoring import ROWS, Estimator, score_layer

Trial = Callable[[int, int, int], Activations]
"""Makes a layer of random numbers, inputs (r, d) and outputs (r, m), where the true ones will be; is given r, m, d."""


def distance_effort(trial: Trial, tokens: int, neurons: int, estimator: Estimator) -> Step:
    """Foretell the distances of so many neurons of some layers, and the statistics beside them."""
    rows = min(tokens, 2 * ROWS)

    def prepare(count: int) -> Callable[[], object]:
        one = trial(rows, count, 1)
        return lambda: score_layer(one, estimator=estimator, pairs=0)

    return Step(f"{estimator} distances", float(tokens * neurons), "outputs", rows * measure(prepare, neurons))


def pairs_effort(trial: Trial, tokens: int, neurons: int, inputs: Sequence[int], pairs: int) -> list[Step]:
    """Foretell the mapping difficulties of so many neurons; `inputs` are the widths of what layers read, each once.

    Pairs are drawn twice, true and shuffled: their inputs are counted by the number, their outputs by the pair.
    """
    pairs = min(pairs, tokens // 2)
    if not pairs:
        return []
    amount = 2.0 * pairs
    return [
        Step("inputs of pairs", amount * sum(inputs), "numbers", amount * _inputs(trial, pairs, max(inputs))),
        Step("outputs of pairs", amount * neurons, "pairs", amount * _outputs(trial, pairs, neurons)),
    ]


def _inputs(trial: Trial, pairs: int, inputs: int) -> float:
    def prepare(count: int) -> Callable[[], object]:
        one = trial(2 * pairs, 1, count)
        return lambda: draw_afresh(one, pairs, 0)

    return measure(prepare, inputs)


def _outputs(trial: Trial, pairs: int, neurons: int) -> float:
    rows = 2 * pairs

    def prepare(count: int) -> Callable[[], object]:
        one = trial(rows, count, 1)
        outputs, mapping = Outputs(one), draw_afresh(one, pairs, 0)
        y = one.backend.asarray(outputs.array([slice(0, rows)], slice(0, count)), outputs.dtype)
        return lambda: mapping.score(one.backend, y, rows, outputs.dtype)

    return measure(prepare, neurons)
