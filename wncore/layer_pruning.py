"""Prune a layer of a dump, and say what it cost: on the tokens that pruning saw, and on those it did not."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.calibration import Calibration, calibrate
from wncore.dumps.header import DTYPES
from wncore.dumps.layer import Layer
from wncore.dumps.tensor import is_finite
from wncore.errors import InputError, MemoryBudgetError, NonFiniteError
from wncore.inputs import Tick
from wncore.normal import Float
from wncore.outputs import Outputs
from wncore.pruning.damping import PUBLISHED_RIDGE, chosen_ridge
from wncore.pruning.loss import relative_errors
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import Pattern
from wncore.scoring import distances


@dataclass(frozen=True, eq=False)
class LayerPruning:
    """A pruned layer of m neurons and d inputs, and the report on it.

    Errors are ||(W'-W)X||^2 / ||WX||^2, of the weights as they are stored.
    """

    name: str
    weight: NDArray
    """(m, d) in the dtype of the dump."""
    pattern: Pattern
    spec: PruneSpec
    calibration: Calibration
    ridge: float
    """As used, relative to each H_jj (or to their mean, if published)."""
    raised: int
    """How often the ridge had to be raised for the matrix to be factorised."""
    relative_error: float
    relative_error_holdout: float | None
    neuron_error: Float
    """(m,)"""
    neuron_error_holdout: Float | None
    wasserstein_dense: Float | None
    """(m,) distance of every neuron's outputs to a Gaussian before; NaN if constant, None without inputs."""
    wasserstein_sparse: Float | None

    @property
    def zeros(self) -> int:
        """The number of weights that are zero."""
        return int(np.count_nonzero(self.weight == 0))

    @property
    def neuron_sparsity(self) -> Float:
        """The share of each neuron's weights that is zero, (m,)."""
        return np.asarray(np.mean(self.weight == 0, axis=1), np.float64)

    @property
    def condition(self) -> float | None:
        """Condition number of the factorised matrix, scaled to a diagonal of 1; None if damped as published."""
        return None if self.spec.damping == "published" else self.calibration.condition(self.ridge)

    @property
    def warnings(self) -> list[str]:
        """Say what the reader should know before trusting the result, one sentence each."""
        found, d = [], len(self.calibration.gram)
        tokens, dead = self.calibration.tokens, int(np.count_nonzero(self.calibration.gram.diagonal() == 0))
        if tokens is not None and tokens < d:
            found.append(
                f"{tokens} calibration tokens for {d} inputs (rank {self.calibration.rank}): the error that was "
                f"calibrated away may come back on other text; the held-out error tells"
            )
        if self.raised:
            found.append(f"the ridge had to be raised to {self.ridge:.3g} before the Gram matrix could be factorised")
        if dead:
            found.append(f"{dead} of {d} inputs are zero on every token")
        return found


def prune_layers(
    layers: Iterable[Layer], backend: Backend, specs: Iterable[PruneSpec], **settings: Any
) -> Iterator[list[LayerPruning]]:
    """Prune layer after layer, each by its spec, as `prune_layer`; neighbours with one input share its Gram matrix."""
    before: tuple[Layer, Calibration] | None = None
    for layer, spec in zip(layers, specs, strict=True):
        shared = before[1] if before and layer.input is not None and before[0].input is layer.input else None
        found = prune_layer(layer, backend, spec, calibration=shared, **settings)
        before = layer, found[0].calibration
        yield found


def prune_layer(
    layer: Layer,
    backend: Backend,
    spec: PruneSpec,
    *,
    ridge: float | None = None,
    holdout: float = 0.1,
    skip_tokens: int = 0,
    memory: int = 2**30,
    wasserstein: bool = True,
    calibration: Calibration | None = None,
    tick: Tick = lambda count: None,
) -> list[LayerPruning]:
    """Prune a layer by each pattern of `spec`, in their order; one Gram matrix and factorisation serves all.

    `ridge` replaces that of the spec; by default it is chosen by the number of tokens (`chosen_ridge`), or 0.01 if that
    is unknown or the damping published. A `calibration` may come from a layer that shares the input.

    Raises
    ------
    MemoryBudgetError
        If the layer's matrices do not fit into `memory`.
    NonFiniteError
        If a weight is NaN or infinite, or becomes so in the dump's dtype.
    WncoreError
        As `calibrate` and `wncore.pruning.methods.prune`.
    """
    if layer.weight is None:
        raise InputError(f"{layer.name} has no weight to prune; add it to the dump")
    m, d = layer.weight.rows, layer.weight.columns
    check_memory(layer.name, m, d, len(spec.patterns), memory)
    spec.cells(m, d)  # a pattern that does not fit is found before any work
    if calibration is None:
        calibration = calibrate(layer, backend, holdout=holdout, skip_tokens=skip_tokens, memory=memory, tick=tick)
    stored = layer.weight.read()
    layer.weight.check_finite(stored)
    dense = stored.astype(np.float64)
    spec = replace(spec, ridge=_ridge(calibration, spec, d) if ridge is None else ridge)
    dtype = "float64" if "float64" in backend.dtypes else backend.dtypes[0]
    w, h = backend.asarray(dense[None], dtype), backend.asarray(calibration.gram[None], dtype)
    weights, used, raised = map(backend.to_numpy, backend.prune(w, h, spec))
    tick(0)
    pruned = [_store(layer, one[0], stored) for one in weights]
    before, after = _distances(layer, backend, pruned, skip_tokens, memory, tick) if wasserstein else (None, None)
    return [
        _report(layer.name, one, dense, i, spec, calibration, float(used[0]), int(raised[0]), before, after)
        for i, one in enumerate(pruned)
    ]


def check_memory(name: str, m: int, d: int, patterns: int, memory: int) -> None:
    """Raise if one layer's matrices need more than `memory` bytes: Gram matrix and factors, weights and results."""
    need = 8 * (8 * d * d + (6 + 2 * patterns) * m * d)
    if need > memory:
        raise MemoryBudgetError(
            f"{name}: pruning {m} neurons of {d} inputs takes about {need / 2**20:.0f} MiB, and {memory / 2**20:.0f} "
            f"are allowed; give --memory {-(-need // 2**20)}MiB"
            + (", or fewer sparsities at a time" if patterns > 1 else "")
        )


def _ridge(calibration: Calibration, spec: PruneSpec, d: int) -> float:
    if spec.damping == "published" or calibration.tokens is None:
        return PUBLISHED_RIDGE
    return chosen_ridge(calibration.tokens, d)


def _store(layer: Layer, weight: Float, dense: NDArray) -> NDArray:
    """Round to the dump's dtype; weights that did not move keep their bits."""
    assert layer.weight is not None
    with np.errstate(over="ignore"):
        rounded = weight.astype(DTYPES[layer.weight.dtype])
    if not is_finite(rounded):
        raise NonFiniteError(
            f"{layer.name}: pruned weights overflow {layer.weight.dtype}; store the weights in a wider dtype"
        )
    return np.where(weight == dense.astype(np.float64), dense, rounded)


def _distances(
    layer: Layer, backend: Backend, pruned: Sequence[NDArray], skip_tokens: int, memory: int, tick: Tick
) -> tuple[Float | None, list[Float] | None]:
    """Return the distances of the dense layer's outputs, and of each pruned one's, on all tokens."""
    if layer.input is None:
        return None, None
    tokens, alone = layer.tokens(skip_tokens), replace(layer, output=None)
    dense = distances(Outputs(alone, tokens, backend, memory, tick))
    return dense, [distances(Outputs(alone, tokens, backend, memory, tick, weights=one)) for one in pruned]


def _report(
    name: str,
    weight: NDArray,
    dense: Float,
    i: int,
    spec: PruneSpec,
    calibration: Calibration,
    ridge: float,
    raised: int,
    before: Float | None,
    after: list[Float] | None,
) -> LayerPruning:
    sparse = weight.astype(np.float64)
    error, by_neuron = relative_errors(sparse, dense, calibration.gram)
    held: tuple[float | None, Float | None] = (None, None)
    if calibration.holdout is not None:
        held = relative_errors(sparse, dense, calibration.holdout)
    return LayerPruning(
        name=name,
        weight=weight,
        pattern=spec.patterns[i],
        spec=spec,
        calibration=calibration,
        ridge=ridge,
        raised=raised,
        relative_error=error,
        relative_error_holdout=held[0],
        neuron_error=by_neuron,
        neuron_error_holdout=held[1],
        wasserstein_dense=before,
        wasserstein_sparse=None if after is None else after[i],
    )
