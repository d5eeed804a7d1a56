"""Prune a layer of a dump, and say what it cost: on the tokens that pruning saw, and on those it did not."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.calibration import Calibration, Calibrator, calibrate
from wncore.dumps.header import DTYPES
from wncore.dumps.orientation import check_orientation
from wncore.dumps.tensor import computed_in, is_finite
from wncore.errors import MemoryBudgetError, NonFiniteError
from wncore.failures import Fail, attempt, reraise
from wncore.layers.activations import Activations
from wncore.matrix import LinearLayer
from wncore.normal import Float
from wncore.outputs import Outputs
from wncore.pruning.damping import PUBLISHED_RIDGE, chosen_ridge
from wncore.pruning.loss import relative_errors
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import Pattern
from wncore.pruning.ridges import Ridges, chosen_ridges, prune_by
from wncore.scoring import distances


@dataclass(frozen=True, eq=False)
class LayerPruning:
    """A pruned layer of m neurons and d inputs, and the report on it.

    Errors are ||(W'-W)X||^2 / ||WX||^2, of the weights as they are stored.
    """

    name: str
    shape: tuple[int, int]
    """(m, d)"""
    weight: NDArray | None
    """(m, d) in the dtype of the dump; None once it was let go of."""
    pattern: Pattern
    spec: PruneSpec
    tokens: int | None
    """Tokens that pruning saw; None if a dump has only their Gram matrix, and does not say."""
    holdout_tokens: int
    rank: int | None
    """How many of the d inputs are no combination of the others, on those tokens; None if nobody asked."""
    dead: int
    """How many are zero on all of them."""
    condition: float | None
    """Condition number of the factorised matrix, scaled to a diagonal of 1; None as rank, or if damped as published."""
    ridge: float
    """Of the kept weights, as used, relative to each H_jj (or to their mean, if published)."""
    zeros_ridge: float
    """That by which zeros were chosen."""
    raised: int
    """How often the ridge had to be raised for the matrix to be factorised."""
    zeros: int
    """The number of weights that are zero."""
    neuron_sparsity: Float
    """(m,) share of each neuron's weights that is zero."""
    relative_error: float
    relative_error_holdout: float | None
    neuron_error: Float
    """(m,)"""
    neuron_error_holdout: Float | None
    wasserstein_dense: Float | None
    """(m,) distance of every neuron's outputs to a Gaussian before; NaN if constant, None without inputs."""
    wasserstein_sparse: Float | None

    @property
    def warnings(self) -> list[str]:
        """Say what the reader should know before trusting the result, one sentence each."""
        found, d = [], self.shape[1]
        if self.tokens is not None and self.tokens < d:
            rank = "" if self.rank is None else f" (rank {self.rank})"
            found.append(
                f"{self.tokens} calibration tokens for {d} inputs{rank}: the error that was calibrated "
                f"away may come back on other text; the held-out error tells"
            )
        if self.raised:
            found.append(f"the ridge had to be raised to {self.ridge:.3g} before the Gram matrix could be factorised")
        if self.dead:
            found.append(f"{self.dead} of {d} inputs are zero on every token")
        return found


def prune_layers(
    opened: Iterable[Activations],
    specs: Mapping[str, PruneSpec],
    *,
    ridge: float | None = None,
    wasserstein: bool = True,
    ranks: bool = True,
    fail: Fail = reraise,
) -> Iterator[list[LayerPruning]]:
    """Prune layer after layer, each by the spec of its name, as `prune_layer`; one input has one Gram matrix.

    `fail` is told of a layer that cannot be pruned, which is left out.
    """
    calibrator = Calibrator()
    for one in opened:
        pruned: list[LayerPruning] = []
        with attempt(one.name, fail):
            calibration = calibrator.of(one)
            reports = {"wasserstein": wasserstein, "ranks": ranks, "calibration": calibration}
            pruned = prune_layer(one, specs[one.name], ridge=ridge, **reports)
        del one  # its inputs need not wait while those of the next are read
        if pruned:
            yield pruned


def prune_layer(
    activations: Activations,
    spec: PruneSpec,
    *,
    ridge: float | None = None,
    wasserstein: bool = True,
    ranks: bool = True,
    calibration: Calibration | None = None,
) -> list[LayerPruning]:
    """Prune a layer by each pattern of `spec`, in their order; one Gram matrix and factorisation serves all.

    `ridge` replaces that of the spec; by default two are chosen by the pattern and the number of tokens
    (`chosen_ridges`), or it is 0.01 if the damping is published. `wasserstein` asks for distances, `ranks` for rank and
    condition, an eigenproblem for each input. A `calibration` may be that of a layer that shares the input.

    Raises
    ------
    MemoryBudgetError
        If the layer's matrices do not fit into the memory that is allowed.
    NonFiniteError
        If a weight is NaN or infinite, or becomes so in the dump's dtype.
    WncoreError
        As `check_orientation`, `calibrate` and `wncore.pruning.methods.prune`.
    """
    layer, backend, (m, d) = activations.layer, activations.backend, activations.shape
    check_memory(layer.name, (m, d), spec, backend, activations.memory)
    spec.cells(m, d)  # a pattern that does not fit is found before any work
    check_orientation(layer, activations.tokens)
    calibration = calibration or calibrate(activations)
    stored = activations.read_weight()
    dense = stored.astype(np.float64)
    w = backend.asarray(dense[None], computed_in(activations.weight))
    ridges = [_ridges(calibration, spec, pattern, d, ridge) for pattern in spec.patterns]
    weights, used, raised = prune_by(backend, w, calibration.gram[None], spec, ridges)
    activations.tick(0)
    pruned = [as_stored(layer, backend.to_numpy(one)[0], stored) for one in weights]
    before, after = _distances(activations, pruned) if wasserstein else (None, None)
    found: list[LayerPruning] = []
    for i, one in enumerate(pruned):
        damping = float(used[i][0]), float(ridges[i].zeros[0]), int(raised[i][0])
        errors = _errors(layer.name, one, dense, calibration, backend)
        scored = before, None if after is None else after[i]
        found.append(_report(layer.name, one, spec, i, calibration, damping, errors, scored, ranks))
    return found


def check_memory(name: str, shape: tuple[int, int], spec: PruneSpec, backend: Backend, memory: int) -> None:
    """Raise if a layer's matrices need more bytes than allowed: Gram matrix and factors, weights and results."""
    m, d = shape
    need = memory_of(m, d, spec, backend)
    if need > memory:
        raise MemoryBudgetError(
            f"{name}: pruning {m} neurons of {d} inputs takes about {need / 2**20:.0f} MiB, and {memory / 2**20:.0f} "
            f"are allowed; give --memory {-(-need // 2**20)}MiB"
            + (", or fewer sparsities at a time" if len(spec.patterns) > 1 else "")
        )


def memory_of(m: int, d: int, spec: PruneSpec, backend: Backend) -> int:
    """Return about how many bytes it takes to prune a matrix (m, d), its inputs aside."""
    need = 8 * (8 * d * d + (10 + 3 * len(spec.patterns)) * m * d)
    if spec.method == "obs" and backend.name == "numpy":
        need += 8 * m * d * d  # the definition has an inverse for each row
    return need


def _ridges(calibration: Calibration, spec: PruneSpec, pattern: Pattern, d: int, ridge: float | None) -> Ridges:
    if ridge is None and spec.damping == "published":
        ridge = PUBLISHED_RIDGE
    if ridge is not None:
        return Ridges(np.array([ridge]), np.array([ridge]))
    noise = 0.0 if calibration.tokens is None else chosen_ridge(calibration.tokens, d)
    return chosen_ridges(pattern, [noise])


def as_stored(layer: LinearLayer, weight: NDArray, dense: NDArray) -> NDArray:
    """Round weights (..., m, d) to the dump's dtype; those that did not move from the dense ones keep their bits.

    Raises
    ------
    NonFiniteError
        If one leaves the range of the dtype.
    """
    assert layer.weight is not None
    with np.errstate(over="ignore"):
        rounded = weight.astype(DTYPES[layer.weight.dtype])
    if not is_finite(rounded):
        raise NonFiniteError(
            f"{layer.name}: pruned weights overflow {layer.weight.dtype}; store the weights in a wider dtype"
        )
    return np.where(weight == dense.astype(np.float64), dense, rounded)


def _distances(activations: Activations, pruned: Sequence[NDArray]) -> tuple[Float | None, list[Float] | None]:
    """Return the distances of the dense layer's outputs, and of each pruned one's, on all tokens."""
    if activations.layer.input is None:
        return None, None
    dense = distances(Outputs(activations.alone()))
    return dense, [distances(Outputs(activations, weights=one)) for one in pruned]


Errors = tuple[float, Float, float | None, Float | None]


def _errors(name: str, weight: NDArray, dense: Float, calibration: Calibration, backend: Backend) -> Errors:
    """Return the relative error and that of each neuron, on the tokens that pruning saw, and on those held out."""
    sparse = weight.astype(np.float64)
    error, by_neuron = relative_errors(sparse, dense, calibration.gram, backend)
    if np.isnan(error):
        raise NonFiniteError(f"{name}: its outputs overflow float64; scale the input or the weights down")
    if calibration.holdout is None:
        return error, by_neuron, None, None
    return error, by_neuron, *relative_errors(sparse, dense, calibration.holdout, backend)


def _report(
    name: str,
    weight: NDArray,
    spec: PruneSpec,
    i: int,
    calibration: Calibration,
    damping: tuple[float, float, int],
    errors: Errors,
    scored: tuple[Float | None, Float | None],
    ranks: bool,
) -> LayerPruning:
    ridge, zeros_ridge, raised = damping
    return LayerPruning(
        name=name,
        shape=(weight.shape[0], weight.shape[1]),
        weight=weight,
        zeros=int(np.count_nonzero(weight == 0)),
        neuron_sparsity=np.asarray(np.mean(weight == 0, axis=1), np.float64),
        pattern=spec.patterns[i],
        spec=spec,
        tokens=calibration.tokens,
        holdout_tokens=calibration.holdout_tokens,
        rank=calibration.rank if ranks else None,
        dead=int(np.count_nonzero(calibration.gram.diagonal() == 0)),
        condition=calibration.condition(ridge) if ranks and spec.damping != "published" else None,
        ridge=ridge,
        zeros_ridge=zeros_ridge,
        raised=raised,
        relative_error=errors[0],
        relative_error_holdout=errors[2],
        neuron_error=errors[1],
        neuron_error_holdout=errors[3],
        wasserstein_dense=scored[0],
        wasserstein_sparse=scored[1],
    )
