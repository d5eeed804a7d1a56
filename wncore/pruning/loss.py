"""How much a layer's outputs change when its weights do."""

import numpy as np
from numpy.typing import ArrayLike

from wncore.backend import Backend, get_backend
from wncore.normal import Float


def neuron_losses(w: ArrayLike, h: ArrayLike) -> Float:
    """Return w_i' H w_i for each row: the sum of a neuron's squared outputs, bias aside: (m, d), (d, d) -> (m,).

    >>> neuron_losses([[1.0, 2.0]], [[1.0, 0.0], [0.0, 3.0]])
    array([13.])
    """
    weights = np.asarray(w, np.float64)
    return np.maximum(((weights @ np.asarray(h, np.float64)) * weights).sum(axis=1), 0.0)


def expert_losses(
    experts: ArrayLike, dense: ArrayLike, grams: ArrayLike, backend: Backend | None = None
) -> tuple[Float, Float]:
    """Return what each expert's neurons lose on its own tokens, and what there was: (k, m, d), (m, d), (k, d, d).

    The sums ||(W_c - W)_i X_c||^2 and ||W_i X_c||^2, (k, m) each, in a unit of their own that keeps numbers whose
    squares would leave the range of float64 from doing harm. By the definition, if no backend is given.
    """
    backend = get_backend("numpy") if backend is None else backend
    after, before, parts = np.asarray(experts), np.asarray(dense, np.float64), np.asarray(grams, np.float64)
    unit = _power_of_two(float(max(np.abs(w).max(initial=0) for w in (before, *after))))
    size = _power_of_two(np.einsum("kii->ki", parts).max(initial=0.0))
    dense_of_unit = backend.asarray(before[None] / unit, "float64")
    lost, whole = [], []
    for w, part in zip(after, parts, strict=True):  # one by one: k copies of the dense layer may be too many
        h = backend.asarray(part[None] / size, "float64")
        change = backend.asarray(w[None].astype(np.float64) / unit - before / unit, "float64")
        lost.append(backend.to_numpy(backend.neuron_losses(change, h))[0])
        whole.append(backend.to_numpy(backend.neuron_losses(dense_of_unit, h))[0])
    return np.array(lost), np.array(whole)


def ratio(lost: Float, whole: Float) -> Float:
    """Divide; nothing over nothing is 0, something over nothing infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lost == 0, 0.0, lost / whole)


def relative_errors(
    sparse: ArrayLike, dense: ArrayLike, h: ArrayLike, backend: Backend | None = None
) -> tuple[float, Float]:
    """Return ||(W'-W)X||^2 / ||WX||^2 of the layer, and of each neuron (m,); the units cancel.

    >>> relative_errors([[0.0, 1.0]], [[1.0, 1.0]], [[1.0, 0.0], [0.0, 3.0]])
    (0.25, array([0.25]))
    """
    lost, whole = expert_losses(np.asarray(sparse)[None], dense, np.asarray(h)[None], backend)
    return float(ratio(lost.sum(), whole.sum())), ratio(lost[0], whole[0])


def _power_of_two(size: float) -> float:
    return float(2.0 ** (np.frexp(size)[1] - 1)) if size > 0 else 1.0
