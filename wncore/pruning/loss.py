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

    Nothing over nothing is 0, something over nothing infinite.

    >>> relative_errors([[0.0, 1.0]], [[1.0, 1.0]], [[1.0, 0.0], [0.0, 3.0]])
    (0.25, array([0.25]))
    """
    before = np.asarray(dense, np.float64)
    lost, whole = neuron_losses(np.asarray(sparse, np.float64) - before, h), neuron_losses(before, h)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(lost > 0, lost / whole, 0.0)
        total = float(np.divide(lost.sum(), whole.sum())) if lost.sum() > 0 else 0.0
    return total, ratio
