"""Simulate the noise floors of `wncore.uncertainty`: quantiles of sqrt(n) times the distance of Gaussian samples."""

import numpy as np

from wncore.backend import get_backend
from wncore.uncertainty import LEVELS
from wncore.wasserstein import sorted_standardised

DRAWS = {64: 250_000, 256: 150_000, 1024: 100_000, 4096: 40_000, 16_384: 20_000}


def main() -> None:
    fast, rng = get_backend("numba"), np.random.default_rng(1)

    def sampled(y: np.ndarray) -> np.ndarray:
        z = sorted_standardised(y)
        return np.abs(z - np.sort(rng.standard_normal(z.shape), axis=1)).mean(axis=1)

    print(f"{'tokens':>7s} {'draws':>7s}            mean    50 %    95 %    99 %  99.9 %")
    for n, draws in DRAWS.items():
        batch = max(1, min(draws, 4_000_000 // n))
        for name, distance in (("exact", fast.gaussian_distance), ("sampled", sampled)):
            found = [distance(rng.standard_normal((n, batch))) for _ in range(-(-draws // batch))]
            scaled = np.sqrt(n) * np.concatenate(found)
            figures = [scaled.mean(), *np.quantile(scaled, LEVELS)]
            print(f"{n:7d} {len(scaled):7d} {name:7s} " + " ".join(f"{figure:7.3f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
