"""Experts against one expert, random clusters and equal storage, with several seeds: the table of docs/experts.md.

python benchmarks/expand_errors.py [--backend torch --device cuda] [--seeds 5]
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from wncore import get_backend
from wncore.dumps import open_dump
from wncore.experts.disentanglement import changes
from wncore.experts.expansion import ExpandSpec
from wncore.experts.fitting import ClusterSpec
from wncore.experts.layers import expand_layers
from wncore.layers.activations import open_layers
from wncore.pruning.methods import PruneSpec
from wncore.pruning.patterns import parse_pattern

EXPERTS = 16


def expansions(layers, backend, seed, pattern, **choices):
    """Yield (what, layer, run) of all layers: one expert, k-means, its controls, balanced clusters."""
    clusters = ClusterSpec(seed=seed)
    spec = ExpandSpec((1, EXPERTS), PruneSpec((parse_pattern(pattern),), **choices), clusters, controls=True)
    for runs in expand_layers(open_layers(layers, backend), [spec] * len(layers)):
        for run in runs:
            yield ("one expert" if len(run.zeros) == 1 else run.control or "k-means"), run
    even = replace(spec, experts=(EXPERTS,), clusters=replace(clusters, balanced=True), controls=False)
    for runs in expand_layers(open_layers(layers, backend), [even] * len(layers)):
        yield "balanced", runs[0]


def cell(values):
    values = np.array(values)
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 and np.ptp(values) else "")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--backend", default="numba")
    options.add_argument("--device")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--sparsity", default="0.8")
    options.add_argument("--method", default="admm")
    chosen = options.parse_args()
    backend = get_backend(chosen.backend, **({"device": chosen.device} if chosen.device else {}))
    layers = list(open_dump(Path(__file__).parent.parent / "data" / "smollm2-135m").layers.values())
    found = {}
    for seed in range(chosen.seeds):
        for what, run in expansions(layers, backend, seed, chosen.sparsity, method=chosen.method):
            change = changes(run.dense, run.disentanglement)["wasserstein"]
            figures = [run.errors.relative_error, run.errors.relative_error_holdout]
            figures += [np.median(run.relative_improvement_holdout), run.stored / np.prod(run.shape)]
            figures += [
                each for whose in ("top", "all") for each in (change[whose].share_fallen, change[whose].median_change)
            ]
            found.setdefault((run.name, what), []).append(figures)
    print(f"{chosen.method}, {chosen.sparsity}, {EXPERTS} experts, {chosen.seeds} seeds: mean ± deviation over seeds\n")
    print("| layer | clusters | stored | error | held out | RI held out | WD of top 3 % | of all |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, what), rows in found.items():
        error, held, gain, stored, *entangled = np.array(rows).T
        share, change, share_all, change_all = (each.mean() for each in entangled)
        print(
            f"| {name.removeprefix('model.layers.')} | {what} | {stored.mean():.2f}x | {cell(error)} | {cell(held)} | "
            f"{gain.mean():.3f} | {share:.0%} fell, {change:+.0%} | {share_all:.0%} fell, {change_all:+.0%} |"
        )


if __name__ == "__main__":
    main()
