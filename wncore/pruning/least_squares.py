"""The best weights for a given mask: exact masked least squares."""

import numpy as np
from numpy.typing import ArrayLike

from wncore.normal import Float


def resolve(w: ArrayLike, h: ArrayLike, mask: ArrayLike) -> Float:
    """Move each row's kept weights to where they make up best for the pruned ones: (m, d), (d, d), (m, d) -> (m, d).

    Minimises tr (W'-W) H (W'-W)' over W' that is zero where the mask is False. For a row with kept inputs S:
    w'_S = w_S + (H_SS)^-1 H_SP w_P, with P the pruned ones: the normal equations. H must be positive definite (`damp`).
    A row that loses nothing is returned to the bit.

    >>> resolve([[1.0, 1.0]], [[2.0, 1.0], [1.0, 2.0]], [[True, False]])
    array([[1.5, 0. ]])
    """
    weights, gram = np.asarray(w, np.float64), np.asarray(h, np.float64)
    kept = np.asarray(mask, bool)
    out = np.where(kept, weights, 0.0)
    for row, dense, keep in zip(out, weights, kept, strict=True):
        if keep.any() and np.any(dense[~keep]):
            row[keep] += np.linalg.solve(gram[np.ix_(keep, keep)], gram[np.ix_(keep, ~keep)] @ dense[~keep])
    return out
