"""Gram matrices as `wncore.grams`: BLAS in the inputs' dtype for a few thousand tokens, sums of those in float64."""

import numpy as np
from numpy.typing import NDArray

from wncore.fast.compiled import compiled
from wncore.fast.tiles import Each, tiles
from wncore.normal import Float

TOKENS = 4096
"""Tokens of one matrix product: float32 sums of so many are as good as the inputs."""
SMALLEST, LARGEST = 1e-30, 1e30
"""Sums of squares beyond which float32 products would leave their range."""


@compiled
def mirror(a):
    """Copy what is below the diagonal above it."""
    for i in range(len(a)):
        for j in range(i):
            a[j, i] = a[i, j]


def gram(x: NDArray, labels: NDArray, k: int, each: Each) -> tuple[Float, Float, NDArray[np.int64]]:
    """Sum x x', x and 1 over the tokens of each of k clusters: (n, d), (n,) -> (k, d, d), (k, d), (k,)."""
    d = x.shape[1]
    grams, sums, counts = np.zeros((k, d, d)), np.zeros((k, d)), np.zeros(k, np.int64)
    for c in range(k):
        mine = np.flatnonzero(labels == c)
        counts[c] = len(mine)
        for first in range(0, len(mine), TOKENS):
            tokens = mine[first : first + TOKENS]
            part = x[first : first + TOKENS] if len(mine) == len(x) else x[tokens]
            grams_part = _lower_products(part, each)
            if not _in_range(grams_part.diagonal(), part):
                grams_part = _lower_products(part.astype(np.float64), each)
            _add(grams_part, part, grams[c], sums[c], each)
        mirror(grams[c])
    return grams, sums, counts


def _lower_products(part: NDArray, each: Each) -> NDArray:
    """Return x'x below the diagonal, and tiles of it above: (n, d) -> (d, d)."""
    out = np.empty((part.shape[1], part.shape[1]), part.dtype)

    def multiply(columns: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # `_in_range` looks for it
            out[columns.start :, columns] = part[:, columns.start :].T @ part[:, columns]

    each(multiply, tiles(part.shape[1]))
    return out


def _in_range(squares: NDArray, part: NDArray) -> bool:
    fine = (squares > SMALLEST) & (squares < LARGEST)
    return part.dtype == np.float64 or bool(np.all(fine) or not part[:, ~fine].any())


def _add(products: NDArray, part: NDArray, total: Float, sums: Float, each: Each) -> None:
    def add(columns: slice) -> None:
        total[columns.start :, columns] += products[columns.start :, columns]
        sums[columns] += part[:, columns].sum(axis=0, dtype=np.float64)

    each(add, tiles(part.shape[1]))
