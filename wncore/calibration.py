"""What pruning knows of a layer's inputs: their Gram matrix, and that of tokens kept back to judge the result."""

from dataclasses import dataclass
from functools import cached_property
from weakref import ReferenceType, ref

import numpy as np

from wncore.dumps.layer import Tokens
from wncore.dumps.tensor import UNIT
from wncore.errors import InputError
from wncore.layers.activations import Activations
from wncore.matrix import Matrix
from wncore.normal import Float
from wncore.sums import sum_clusters


@dataclass(frozen=True, eq=False)
class Calibration:
    """Sums of x x' over a layer's tokens."""

    gram: Float
    """(d, d) over the tokens that pruning may look at."""
    tokens: int | None
    """None if a dump has only the Gram matrix, and does not say."""
    holdout: Float | None
    """(d, d) over the last tokens, which it may not; None if there are none."""
    holdout_tokens: int

    @cached_property
    def eigenvalues(self) -> Float:
        """(d,) of the Gram matrix with its diagonal scaled to 1, ascending; an eigenproblem, when first asked for."""
        return eigenvalues(self.gram)

    @property
    def rank(self) -> int:
        """How many of the d inputs are not a combination of the others, as far as float32 can tell."""
        return rank(self.eigenvalues, self.tokens)

    def condition(self, ridge: float) -> float:
        """Return the condition number of the scaled matrix with a ridge; infinite if it is singular."""
        low, high = np.maximum(self.eigenvalues[[0, -1]], 0.0) + ridge
        return float(high / low) if low > 0 else np.inf


def calibrate(activations: Activations) -> Calibration:
    """Read a layer's inputs once and sum them up; the tokens held out apart from the others.

    Without inputs, the dump's Gram matrix is taken.

    Raises
    ------
    InputError
        If a stored Gram matrix is none, or tokens should be left out of one.
    NonFiniteError
        If it holds NaN or infinity.
    WncoreError
        As `sum_clusters`.
    """
    layer = activations.layer
    if layer.input is None:
        if layer.gram is None:
            raise InputError(f"{layer.name} has neither input nor gram; capture one of them")
        if activations.skipped:
            raise InputError(f"{layer.name}: no token can be left out of a sum; --skip-tokens needs the input itself")
        gram = read_gram(layer.gram)
        return Calibration(gram, layer.gram_tokens, None, 0)
    sums = sum_clusters(activations)
    kept_back = None if sums.holdout is None else sums.holdout[0]
    return Calibration(sums.grams[0], int(sums.tokens[0]), kept_back, int(sums.holdout_tokens[0]))


class Calibrator:
    """Calibrates layer after layer: those that follow each other and read the same share what is found.

    Of an input nothing is held for it, so that a large one is gone before the next is there.
    """

    def __init__(self) -> None:
        self._recent: list[tuple[ReferenceType[Matrix], Tokens, Calibration]] = []

    def of(self, activations: Activations) -> Calibration:
        """Calibrate a layer, or find what was found of its input; errors are those of `calibrate`."""
        source = activations.layer.input
        if source is None:
            return calibrate(activations)
        for known, tokens, calibration in self._recent:
            if known() is source and activations.counts(tokens):
                return calibration
        found = calibrate(activations)
        self._recent = [(ref(source), activations.tokens, found), *self._recent][:2]
        return found


def read_gram(tensor: Matrix) -> Float:
    """Read a stored Gram matrix: (d, d), made symmetric.

    Raises
    ------
    NonFiniteError
        If it holds NaN or infinity.
    InputError
        If it is not symmetric, or is no Gram matrix: |H_ij| <= sqrt(H_ii H_jj) must hold.
    """
    raw = tensor.read()
    tensor.check_finite(raw)
    h = raw.astype(np.float64)
    tolerance = max(1e-4, 4 * UNIT.get(tensor.dtype, UNIT["BF16"]))
    diagonal = h.diagonal()
    if diagonal.min() < 0:
        worst = int(np.argmin(diagonal))
        raise InputError(f"{tensor.name} is no Gram matrix: H[{worst}, {worst}] = {diagonal[worst]:.6g} is negative")
    allowed = np.sqrt(np.outer(diagonal, diagonal))
    for gap, what in ((np.abs(h - h.T) - tolerance * allowed, "is not symmetric"),
                      (np.abs(h) - (1 + tolerance) * allowed, "is no Gram matrix")):  # fmt: skip
        if gap.max() > 0:
            i, j = np.unravel_index(np.argmax(gap), gap.shape)
            raise InputError(
                f"{tensor.name} {what}: H[{i}, {j}] = {h[i, j]:.6g}, H[{j}, {i}] = {h[j, i]:.6g}, and the diagonal "
                f"there {h[i, i]:.6g}, {h[j, j]:.6g}; sum x x' over tokens again"
            )
    return (h + h.T) / 2


def rank(eigenvalues: Float, tokens: int | None) -> int:
    """Count the eigenvalues (d,), ascending, that float32 can tell from zero; no more than there were tokens."""
    found = int(np.count_nonzero(eigenvalues > len(eigenvalues) * 2.0**-24 * eigenvalues[-1]))
    return found if tokens is None else min(found, tokens)


def eigenvalues(gram: Float) -> Float:
    """Return the eigenvalues of a Gram matrix scaled to a diagonal of 1, ascending: (d, d) -> (d,)."""
    unit = np.sqrt(gram.diagonal())
    unit = np.where(unit > 0, unit, 1.0)
    return np.asarray(np.linalg.eigvalsh(gram / np.outer(unit, unit)), np.float64)
