"""Wasserstein neurons: score, prune and disentangle the linear layers of language models.

Importing this package is cheap: each public name loads its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wncore.backend import Backend, available, get_backend
    from wncore.difficulty import draw_pairs, mapping_difficulty
    from wncore.errors import WncoreError
    from wncore.experts.experts import Experts
    from wncore.experts.files import load_experts
    from wncore.histograms import Histogram, choose_edges, histogram, histogram_runs, linear_histogram
    from wncore.streaming import distance_bounds
    from wncore.uncertainty import jackknife_error, noise_floor
    from wncore.wasserstein import gaussian_distance, sampled_distance, two_sample_distance

    __version__: str

__all__ = [
    "Backend",
    "Experts",
    "Histogram",
    "WncoreError",
    "__version__",
    "available",
    "choose_edges",
    "distance_bounds",
    "draw_pairs",
    "gaussian_distance",
    "get_backend",
    "histogram",
    "histogram_runs",
    "jackknife_error",
    "linear_histogram",
    "load_experts",
    "mapping_difficulty",
    "noise_floor",
    "sampled_distance",
    "two_sample_distance",
]

_HOME = {
    "backend": ("Backend", "available", "get_backend"),
    "difficulty": ("draw_pairs", "mapping_difficulty"),
    "errors": ("WncoreError",),
    "experts.experts": ("Experts",),
    "experts.files": ("load_experts",),
    "histograms": ("Histogram", "choose_edges", "histogram", "histogram_runs", "linear_histogram"),
    "streaming": ("distance_bounds",),
    "uncertainty": ("jackknife_error", "noise_floor"),
    "wasserstein": ("gaussian_distance", "sampled_distance", "two_sample_distance"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("wncore")
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"wncore.{module}"), name)
    raise AttributeError(f"module 'wncore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
