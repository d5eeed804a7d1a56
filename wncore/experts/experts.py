"""The sparse experts of a layer: what is saved, loaded and run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wncore.backend import Backend
from wncore.dumps.header import DTYPES
from wncore.errors import InputError, NonFiniteError, ShapeError
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

        Float32, or float64 for a router of that dtype.

        Raises
        ------
        ShapeError
            If the inputs do not have d channels, or are no real numbers.
        NonFiniteError
            If one is NaN or infinite, or leaves the range of that dtype.
        """
        x, engine = np.asarray(inputs), backend or NumpyBackend()
        m, d = self.weights.shape[1:]
        if x.ndim == 0 or x.shape[-1] != d:
            raise ShapeError(f"{self.name} takes inputs (..., {d}); got {x.shape}, give it the layer's own inputs")
        if x.dtype.kind not in "iuf" and x.dtype not in DTYPES.values():
            raise ShapeError(f"{self.name} takes real numbers; got {x.dtype}, convert them first")
        dtype = str(self.router.components.dtype)
        with np.errstate(over="ignore"):
            flat = x.reshape(-1, d).astype(dtype)
        if not np.isfinite(flat).all():
            raise NonFiniteError(
                f"{self.name}: an input is NaN or infinite in {dtype}; no expert is near it, leave it out"
            )
        labels = engine.asarray(self.router.labels(flat, engine), "int64")
        weights = engine.asarray(self.weights.astype(dtype), dtype)
        bias = None if self.bias is None else engine.asarray(self.bias.astype(dtype), dtype)
        outputs = engine.routed_linear(engine.asarray(flat, dtype), weights, bias, labels)
        return engine.to_numpy(outputs).reshape(*x.shape[:-1], m)

    def save(self, path: str | Path, packed: bool = False, force: bool = False) -> None:
        """Write the experts of this one layer to a file; raises as `wncore.experts.files.save_experts`."""
        from wncore.experts.files import describe, save_experts

        save_experts(path, [self], describe([self]), packed, force)

    @staticmethod
    def load(path: str | Path, name: str | None = None) -> "Experts":
        """Read a layer's experts from a file; the name may be left out if it holds but one.

        Raises
        ------
        InputError
            If the file has no layer of that name, or several and none is named.
        WncoreError
            As `wncore.experts.files.load_experts`, and for numbers that are NaN or infinite.
        """
        from wncore.experts.files import load_experts

        layers = load_experts(path).layers
        if name is None and len(layers) == 1:
            name = next(iter(layers))
        if name is None or name not in layers:
            told = f"holds {len(layers)} layers" if name is None else f"has no layer {name}"
            raise InputError(f"{path} {told}; name one of {', '.join(list(layers)[:6])}")
        return layers[name]
