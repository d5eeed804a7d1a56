"""Which expert a token belongs to: the nearest centroid in the space of the inputs' principal components."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Array, Backend

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Router:
    """A token x goes to argmin_c ||C (x - mean) - centroid_c||: hard, one expert, no mixing.

    Source: arXiv:2405.15756, section 5. Float32, or float64 for inputs of that dtype.
    """

    mean: NDArray
    """(d,) of the inputs that it was fitted to"""
    components: NDArray
    """(r, d), the rows of C"""
    centroids: NDArray
    """(k, r)"""

    @property
    def experts(self) -> int:
        """The number k of experts."""
        return len(self.centroids)

    def project(self, x: NDArray, backend: Backend) -> Array:
        """Return C (x - mean) of the inputs: (n, d) -> (n, r) as an array of the backend."""
        dtype = str(self.components.dtype)
        offset = -(self.components.astype(np.float64) @ self.mean.astype(np.float64))
        weights, bias = backend.asarray(self.components[None], dtype), backend.asarray(offset, dtype)
        labels = backend.asarray(np.zeros(len(x), np.int64), "int64")
        return backend.routed_linear(backend.asarray(x, dtype), weights, bias, labels)

    def labels(self, x: NDArray, backend: Backend) -> Labels:
        """Say which expert each input belongs to: (n, d) -> (n,)."""
        centroids = backend.asarray(self.centroids[None], str(self.components.dtype))
        return backend.to_numpy(backend.lloyd(self.project(x, backend), centroids)[0])[0]
