"""Linear layers whose weights depend on the token: the product behind sparse experts; one expert is a plain layer."""

import numpy as np
from numpy.typing import ArrayLike

from wncore.normal import Float


def routed_linear(x: ArrayLike, weights: ArrayLike, bias: ArrayLike | None, labels: ArrayLike) -> Float:
    """Send each token through the expert that its label names: (n, d), (k, m, d), (m,) or None, (n,) -> (n, m).

    y_t = W[label_t] x_t + b. Source: sparse expansion, arXiv:2405.15756, section 5.

    >>> routed_linear([[1.0], [1.0]], [[[2.0]], [[3.0]]], None, [0, 1])
    array([[2.],
           [3.]])
    """
    inputs, experts, expert_of = np.asarray(x, np.float64), np.asarray(weights, np.float64), np.asarray(labels)
    outputs = np.zeros((len(inputs), experts.shape[1]))
    for expert, weight in enumerate(experts):
        mine = expert_of == expert
        with np.errstate(over="ignore", invalid="ignore"):  # who asks looks for infinity
            outputs[mine] = inputs[mine] @ weight.T
    return outputs if bias is None else outputs + np.asarray(bias, np.float64)
