"""The sparse experts of a layer: what is saved, loaded and run."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.backend import Backend
from wncore.errors import ShapeError
from wncore.experts.router import Labels, Router
from wncore.reference import NumpyBackend


@dataclass(frozen=True, eq=False)
class Experts:
    """A linear layer of m neurons as k sparse experts, and the router that sends each token to one of them.

    Source: sparse expansion, arXiv:2405.15756, section 5.
    """

    name: str
    weights: NDArray
    """(k, m, d) in the dtype of the dense weights."""
    bias: NDArray | None
    """(m,)"""
    router: Router
    counts: Labels
    """(k,) calibration tokens behind each expert."""

    def forward(self, inputs: ArrayLike, backend: Backend | None = None) -> NDArray:
        """Return the outputs of a layer of experts: (..., d) -> (..., m), y = W[label of x] x + b.

        Raises
        ------
        ShapeError
            If the inputs do not have d channels.
        """
        x, engine = np.asarray(inputs), backend or NumpyBackend()
        m, d = self.weights.shape[1:]
        if x.ndim == 0 or x.shape[-1] != d:
            raise ShapeError(f"{self.name} takes inputs (..., {d}); got {x.shape}, give it the layer's own inputs")
        dtype = str(self.router.components.dtype)
        flat = x.reshape(-1, d).astype(dtype)
        labels = engine.asarray(self.router.labels(flat, engine), "int64")
        weights = engine.asarray(self.weights.astype(dtype), dtype)
        bias = None if self.bias is None else engine.asarray(self.bias.astype(dtype), dtype)
        outputs = engine.routed_linear(engine.asarray(flat, dtype), weights, bias, labels)
        return engine.to_numpy(outputs).reshape(*x.shape[:-1], m)
