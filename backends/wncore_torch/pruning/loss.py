"""How much outputs change when weights do: a quadratic form for each row."""

from torch import Tensor


def neuron_losses(w: Tensor, h: Tensor) -> Tensor:
    """Return w_i' H w_i for each row of each expert, in float64: (k, m, d), (k, d, d) -> (k, m)."""
    return ((w @ h) * w).sum(dim=2).clamp(min=0)
