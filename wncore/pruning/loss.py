"""How much a layer's outputs change when its weights do."""

import numpy as np
from numpy.typing import ArrayLike

from wncore.normal import Float


def neuron_losses(w: ArrayLike, h: ArrayLike) -> Float:
    """Return w_i' H w_i for each row: the sum of a neuron's squared outputs, bias aside: (m, d), (d, d) -> (m,).

    >>> neuron_losses([[1.0, 2.0]], [[1.0, 0.0], [0.0, 3.0]])
    array([13.])
    """
    weights = np.asarray(w, np.float64)
    return np.maximum(((weights @ np.asarray(h, np.float64)) * weights).sum(axis=1), 0.0)


def relative_errors(sparse: ArrayLike, dense: ArrayLike, h: ArrayLike) -> tuple[float, Float]:
    """Return ||(W'-W)X||^2 / ||WX||^2 of the layer, and of each neuron (m,).

    Nothing over nothing is 0, something over nothing infinite. The units of weights and inputs cancel, so that numbers
    whose squares would leave the range of float64 do no harm.

    >>> relative_errors([[0.0, 1.0]], [[1.0, 1.0]], [[1.0, 0.0], [0.0, 3.0]])
    (0.25, array([0.25]))
    """
    after, before, gram = np.asarray(sparse, np.float64), np.asarray(dense, np.float64), np.asarray(h, np.float64)
    unit = _power_of_two(max(np.abs(before).max(initial=0.0), np.abs(after).max(initial=0.0)))
    gram = gram / _power_of_two(gram.diagonal().max(initial=0.0))
    lost, whole = neuron_losses(after / unit - before / unit, gram), neuron_losses(before / unit, gram)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(lost == 0, 0.0, lost / whole)
        total = 0.0 if lost.sum() == 0 else float(np.divide(lost.sum(), whole.sum()))
    return total, ratio


def _power_of_two(size: float) -> float:
    return float(2.0 ** (np.frexp(size)[1] - 1)) if size > 0 else 1.0
