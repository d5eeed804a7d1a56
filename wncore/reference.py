"""The definitions of the core, bound as the backend "numpy": what every other backend is certified against."""

from typing import Any, ClassVar

import ml_dtypes  # noqa: F401  gives NumPy the name bfloat16
import numpy as np

from wncore import clustering, difficulty, grams, histograms, routing, streaming, wasserstein
from wncore.pruning import least_squares, loss, methods


class NumpyBackend:
    """Plain NumPy in float64, written to be read."""

    name: ClassVar[str] = "numpy"
    dtypes: ClassVar[tuple[str, ...]] = ("float64", "float32", "float16", "bfloat16")

    def asarray(self, x: Any, dtype: str) -> np.ndarray:
        """Keep NumPy arrays; floats become `dtype`, integers int64."""
        array = np.asarray(x)
        return array.astype(np.int64 if array.dtype.kind in "iub" else dtype, copy=False)

    def to_numpy(self, x: np.ndarray) -> np.ndarray:
        """Return x itself."""
        return x

    gaussian_distance = staticmethod(wasserstein.gaussian_distance)
    choose_edges = staticmethod(histograms.choose_edges)
    histogram = staticmethod(histograms.histogram)
    histogram_runs = staticmethod(histograms.histogram_runs)
    linear_histogram = staticmethod(histograms.linear_histogram)
    distance_bounds = staticmethod(streaming.distance_bounds)
    mapping_difficulty = staticmethod(difficulty.mapping_difficulty)
    gram = staticmethod(grams.gram)
    lloyd = staticmethod(clustering.lloyd)

    def routed_linear(self, x: np.ndarray, weights: np.ndarray, bias: Any, labels: np.ndarray) -> np.ndarray:
        """Compute in float64, round once to the input's dtype."""
        outputs = routing.routed_linear(x, weights, bias, labels)
        with np.errstate(over="ignore"):
            return outputs.astype(x.dtype)

    def prune(self, w: np.ndarray, h: np.ndarray, spec: methods.PruneSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute in float64, round once to the weights' dtype."""
        weights, ridge, raised = methods.prune(w, h, spec)
        return weights.astype(w.dtype), ridge, raised

    def resolve(self, w: np.ndarray, h: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Compute in float64, round once to the weights' dtype."""
        return np.array([least_squares.resolve(*one) for one in zip(w, h, mask, strict=True)], w.dtype)

    def neuron_losses(self, w: np.ndarray, h: np.ndarray) -> np.ndarray:
        """Judge expert by expert."""
        return np.array([loss.neuron_losses(*one) for one in zip(w, h, strict=True)])
