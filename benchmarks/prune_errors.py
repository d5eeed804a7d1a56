"""Relative errors of the pruning methods, on synthetic layers and on the shipped activations: the tables of the docs.

python benchmarks/prune_errors.py            (needs torch, for the random stream of the synthetic layers)
"""

from pathlib import Path

import torch

from wncore import get_backend
from wncore.dumps import open_dump
from wncore.dumps.selection import choose
from wncore.layer_pruning import prune_layers
from wncore.layers.activations import open_layers
from wncore.pruning.damping import chosen_ridge
from wncore.pruning.loss import relative_errors
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import parse_pattern

PATTERNS = tuple(parse_pattern(text) for text in ("0.5", "0.7", "0.9", "2:4"))
METHODS = {
    "magnitude": {"method": "magnitude", "resolve": False},
    "Wanda": {"method": "wanda", "resolve": False},
    "SparseGPT, published": {"method": "sparsegpt", "damping": "published", "resolve": False},
    "SparseGPT, re-solved": {"method": "sparsegpt"},
    "exact OBS": {"method": "obs"},
    "default (ADMM)": {},
}
CASES = {
    "plain": {},
    "outliers": {"outliers": True},
    "one channel x300": {"massive": 300.0},
    "one channel x1000": {"massive": 1000.0},
    "rank-deficient": {"tokens": 160},
}


def synthetic(rows=128, inputs=256, tokens=4096, outliers=False, massive=1.0):
    """Low-rank inputs plus noise; log-normal channel scales, or one massive channel."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(inputs, inputs // 4, generator=g)
    x = torch.randn(tokens, inputs // 4, generator=g) @ a.T / (inputs // 4) ** 0.5
    x = x + 0.3 * torch.randn(tokens, inputs, generator=g)
    if outliers:
        x = x * torch.exp(torch.randn(inputs, generator=g))
    x[:, 7] *= massive
    return (torch.randn(rows, inputs, generator=g) / inputs**0.5).double().numpy(), x.double().numpy()


def row(name, values):
    print(f"| {name} |", " | ".join("-" if value is None else f"{value:.3g}" for value in values), "|")


def synthetic_table(backend):
    for case, options in CASES.items():
        w, x = synthetic(**options)
        h = x.T @ x
        print(f"\n{case}\n")
        print("| method |", " | ".join(map(str, PATTERNS)), "|\n|---|" + "---|" * len(PATTERNS))
        for name, settings in METHODS.items():
            published = settings.get("damping") == "published"
            spec = PruneSpec(PATTERNS, ridge=0.01 if published else chosen_ridge(*x.shape), **settings)
            weights = backend.prune(w[None], h[None], spec)[0]
            row(name, [relative_errors(one[0], w, h)[0] for one in weights])


def real_table(backend):
    dump = open_dump(Path(__file__).parent.parent / "data" / "smollm2-135m")
    layers = choose(dump, list(dump.layers), "prunable").ready
    patterns = tuple(parse_pattern(text) for text in ("0.5", "0.8", "2:4"))
    print("\nSmolLM2-135M: error on the calibration tokens, and held out\n")
    print("| layer | method |", " | ".join(f"{p} | held out" for p in patterns), "|\n|---|---|" + "---|" * 6)
    for name, settings in METHODS.items():
        specs = {layer.name: PruneSpec(patterns, **settings) for layer in layers}
        pruned = prune_layers(open_layers(layers, backend), specs, wasserstein=False)
        for layer, found in zip(layers, pruned, strict=True):
            errors = [error for one in found for error in (one.relative_error, one.relative_error_holdout)]
            row(f"{layer.name.removeprefix('model.')} | {name}", errors)


if __name__ == "__main__":
    engine = get_backend("numba")
    synthetic_table(engine)
    real_table(engine)
