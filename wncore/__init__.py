"""Wasserstein neurons: score, prune and disentangle the linear layers of language models.

Importing this package is cheap: each public name loads its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wncore.backend import Backend, available, get_backend
    from wncore.difficulty import draw_pairs, mapping_difficulty
    from wncore.errors import WncoreError
    from wncore.histogram import Histogram, choose_edges, histogram
    from wncore.normal import quantile_cells
    from wncore.streaming import distance_bounds
    from wncore.uncertainty import jackknife_error, noise_floor
    from wncore.wasserstein import gaussian_distance, sampled_distance, two_sample_distance

_HOME = {
    "Backend": "backend",
    "available": "backend",
    "get_backend": "backend",
    "draw_pairs": "difficulty",
    "mapping_difficulty": "difficulty",
    "WncoreError": "errors",
    "Histogram": "histogram",
    "choose_edges": "histogram",
    "histogram": "histogram",
    "distance_bounds": "streaming",
    "jackknife_error": "uncertainty",
    "noise_floor": "uncertainty",
    "gaussian_distance": "wasserstein",
    "sampled_distance": "wasserstein",
    "two_sample_distance": "wasserstein",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("wncore")
    if name in _HOME:
        return getattr(import_module(f"wncore.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wncore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__all__ = sorted([*_HOME, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]
