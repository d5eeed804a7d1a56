"""What the dtype of the arithmetic cannot tell: the deviation that rounding alone gives to computed outputs."""

import numpy as np

from wncore.dumps.tensor import as_floats
from wncore.normal import Float
from wncore.outputs import Outputs
from wncore.routing import routed_linear
from wncore.tolerance import budget

TOKENS = 64
"""Tokens that say how large the terms of a sum are."""
ROOM = 2**25
"""Bytes of weights that are held at a time."""


def rounding_deviation(outputs: Outputs) -> Float:
    """Return the deviation that rounding alone may give to computed outputs, (m,).

    It is the error budget of a sum of the d terms w_j x_j, 8 sqrt(d) u sum_j |w_j| |x_j|, and that of adding the bias,
    8 u |b| (`wncore.tolerance`): a matrix product may round equal inputs differently at the edges of its blocks, so a
    constant neuron whose outputs are computed need not come out constant. Only what a neuron reads counts: no channel
    whose weight is 0, and an expert's weights on its own tokens. The sum is the median over a few tokens.
    """
    source, bias = outputs.layer.input, outputs.layer.bias
    assert source is not None
    step = max(1, outputs.tokens.count // TOKENS)
    rows, labels = np.flatnonzero(outputs.tokens.keep)[::step], outputs.labels[::step]
    few = np.abs(np.concatenate([as_floats(source.read(slice(row, row + 1))) for row in rows]).astype(np.float64))
    experts, m = 1 if outputs.weights is None else len(outputs.weights), outputs.layer.neurons
    width, sizes = max(1, ROOM // (8 * experts * source.columns)), []
    for first in range(0, m, width):
        weights = np.abs(outputs.weights_of(slice(first, min(m, first + width))).astype(np.float64))
        sizes.append(np.median(routed_linear(few, weights, None, labels), axis=0))
    deviation = budget(outputs.dtype, source.columns, np.concatenate(sizes))
    if bias is not None:
        deviation += budget(outputs.dtype, 1, np.abs(as_floats(bias.read())[:, 0]))
    return deviation
