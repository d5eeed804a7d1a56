"""Simulate the noise floor of `wncore.uncertainty`: quantiles of sqrt(n) times the distance of Gaussian samples."""

import numpy as np

from wncore.backend import get_backend

DRAWS = {64: 250_000, 256: 150_000, 1024: 100_000, 4096: 40_000, 16_384: 20_000}


def main() -> None:
    fast, rng = get_backend("numba"), np.random.default_rng(1)
    print(f"{'tokens':>7s} {'draws':>7s}   mean    50 %    95 %    99 %  99.9 %")
    for n, draws in DRAWS.items():
        batch = max(1, min(draws, 4_000_000 // n))
        found = [fast.gaussian_distance(rng.standard_normal((n, batch))) for _ in range(-(-draws // batch))]
        scaled = np.sqrt(n) * np.concatenate(found)
        figures = [scaled.mean(), *np.quantile(scaled, [0.5, 0.95, 0.99, 0.999])]
        print(f"{n:7d} {len(scaled):7d} " + " ".join(f"{figure:7.3f}" for figure in figures))


if __name__ == "__main__":
    main()
