"""Pruning a matrix by any method: damp the Gram matrix, find the zeros, solve for the rest."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.errors import InputError
from wncore.normal import Float
from wncore.pruning.alternating import admm
from wncore.pruning.cells import BLOCK, Cells, Group, cells_of, select
from wncore.pruning.damping import DAMPINGS, Damped, Damping, damp
from wncore.pruning.greedy import obs
from wncore.pruning.least_squares import resolve
from wncore.pruning.patterns import Pattern
from wncore.pruning.scores import magnitude_score, wanda_score
from wncore.pruning.sweep import sparsegpt

Method = Literal["magnitude", "wanda", "sparsegpt", "obs", "admm"]
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULT_GROUP: dict[Method, Group] = {
    "magnitude": "layer",
    "wanda": "row",
    "sparsegpt": "block",
    "obs": "layer",
    "admm": "layer",
}
ITERATIONS = 60


@dataclass(frozen=True)
class PruneSpec:
    """How to prune: everything but the matrices.

    `resolve` moves the kept weights to the exact least-squares solution for the mask that the method found; `bits`
    rounds them to a grid instead, in a SparseGPT sweep with that mask.
    """

    patterns: tuple[Pattern, ...]
    """What is asked for, in one call with one factorisation."""
    method: Method = "admm"
    group: Group | None = None
    """Where weights are compared; None: where the method is best, `DEFAULT_GROUP`."""
    damping: Damping = "unit-diagonal"
    ridge: float | tuple[float, ...] = 0.01
    """One for all experts, or one for each."""
    resolve: bool = True
    bits: int | None = None
    bits_group: int | None = None
    """Columns that share a grid; None: the whole row."""
    block: int = BLOCK
    iterations: int = ITERATIONS

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"there is no pruning method {self.method!r}; choose one of {', '.join(METHODS)}")
        if self.damping not in DAMPINGS:
            raise InputError(f"there is no damping {self.damping!r}; choose one of {', '.join(DAMPINGS)}")
        if not self.patterns:
            raise InputError("there is no pattern to prune by; give one, Unstructured(0.5) say")
        for ridge in self.ridge if isinstance(self.ridge, tuple) else (self.ridge,):
            if not 0 <= ridge < np.inf:
                raise InputError(f"a ridge is a positive number, or 0; got {ridge}")
        if self.bits is not None and not 2 <= self.bits <= 8:
            raise InputError(f"weights are rounded to 2 to 8 bits; got {self.bits}")
        if self.bits is not None and self.resolve:
            raise InputError("re-solved weights would leave the grid; ask for bits, or for resolve, not both")
        for name, least in (("iterations", 2), ("block", 1), ("bits_group", 1)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise InputError(f"{name} must be at least {least}; got {given}")

    @property
    def compared(self) -> Group:
        """The comparison group that is used."""
        return self.group or DEFAULT_GROUP[self.method]

    @property
    def resolved(self) -> bool:
        """Whether the kept weights end as the least-squares solution for their mask: those of OBS always do."""
        return not self.bits and (self.resolve or self.method == "obs")

    def ridges(self, k: int) -> tuple[float, ...]:
        """Give each of k experts its ridge.

        Raises
        ------
        InputError
            If there is one for each of another number of experts.
        """
        given = self.ridge if isinstance(self.ridge, tuple) else (self.ridge,) * k
        if len(given) != k:
            raise InputError(f"there are {len(given)} ridges for {k} experts; give one for each, or a number for all")
        return given

    def cells(self, m: int, d: int) -> tuple[Cells, ...]:
        """Lay out the cells of each pattern for a matrix (m, d)."""
        return tuple(cells_of(pattern, self.compared, m, d, self.block) for pattern in self.patterns)


def prune(w: ArrayLike, h: ArrayLike, spec: PruneSpec) -> tuple[Float, Float, NDArray[np.int64]]:
    """Prune the matrices of k experts, each on its own Gram matrix: (k, m, d), (k, d, d) -> (p, k, m, d), (k,), (k,).

    Returns the weights for each of p patterns, the ridge that was used, and how often it had to be raised. Rows that
    lose nothing are returned to the bit, unless they are rounded to a grid; no other scale of H changes anything.

    Raises
    ------
    InputError, ShapeError
        As `damp`, `cells_of` and `PruneSpec.ridges`.
    """
    weights, grams = np.asarray(w, np.float64), np.asarray(h, np.float64)
    damped = [damp(gram, ridge, spec.damping) for gram, ridge in zip(grams, spec.ridges(len(weights)), strict=True)]
    out = [
        [prune_matrix(one, state, gram, cells, spec) for one, gram, state in zip(weights, grams, damped, strict=True)]
        for cells in spec.cells(*weights.shape[1:])
    ]
    return np.array(out), np.array([s.ridge for s in damped]), np.array([s.raised for s in damped], np.int64)


def prune_matrix(w: Float, damped: Damped, h: Float, cells: Cells, spec: PruneSpec) -> Float:
    """Prune one matrix by its cells: (m, d) -> (m, d)."""
    if spec.method == "sparsegpt":
        weights, mask = sparsegpt(w, damped, cells, None, spec.bits, spec.bits_group)
    elif spec.method == "obs":
        weights, mask = obs(w, damped, cells)
    elif spec.method == "admm":
        weights, mask = admm(w, damped, cells, spec.iterations)
    else:
        mask = select(wanda_score(w, h) if spec.method == "wanda" else magnitude_score(w), cells)
        weights = np.where(mask, w, 0.0)
    if spec.bits and spec.method != "sparsegpt":
        return sparsegpt(w, damped, cells, lambda _, c: mask[:, cells.span(c)], spec.bits, spec.bits_group)[0]
    if spec.resolve:
        weights = resolve(w, damped.h, mask)
    return weights if spec.bits else np.where(mask.all(axis=1, keepdims=True), w, weights)
