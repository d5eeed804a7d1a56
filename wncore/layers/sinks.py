"""Attention sinks: tokens whose input is many times longer than others', wherever in a text they stand.

They are not only the first of a sequence: Qwen has them hundreds of tokens in (arXiv:2402.17762 shows them in many
families). A few of them set the tails of every neuron's outputs.
"""

import numpy as np
from numpy.typing import NDArray

SINK = 10.0
"""A sink's input is longer than the median of the layer's by this factor."""


def count_sinks(
    norms: NDArray[np.floating], keep: NDArray[np.bool_], skip: float | None = None
) -> tuple[int, NDArray[np.bool_]]:
    """Count the sinks among the rows that count, by the lengths of their inputs: (r,), (r,).

    With `skip`, rows that are longer than the median by that factor are left out: -> their number as sinks, and `keep`
    without them.

    >>> count_sinks(np.array([1.0, 1.0, 2.0, 500.0]), np.ones(4, bool), skip=10)
    (1, array([ True,  True,  True, False]))
    """
    if not keep.any():
        return 0, keep
    median = np.median(norms[keep])
    sinks = int((norms[keep] > SINK * median).sum())
    return sinks, keep if skip is None else keep & (norms <= skip * median)
