"""Expand the layers of a dump into sparse experts, those that share an input by one router."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wncore.backend import Backend
from wncore.dumps.layer import Layer
from wncore.errors import InputError, MemoryBudgetError, TooFewTokensError, WriteError
from wncore.experts.disentanglement import disentangle
from wncore.experts.expansion import AUTO, ExpandSpec, LayerExpansion
from wncore.experts.pruned import experts_at_once
from wncore.experts.runs import SharedInput, read_shared, runs_of
from wncore.failures import BlamedError, Fail, attempt, reraise
from wncore.inputs import Tick
from wncore.layer_pruning import same_inputs
from wncore.scoring import score_layer
from wncore.sums import judged_from

MOST = 1024
"""Experts that `AUTO` tries, at most."""


def expand_layers(
    layers: Sequence[Layer],
    backend: Backend,
    specs: Sequence[ExpandSpec],
    *,
    holdout: float = 0.1,
    skip_tokens: int = 0,
    memory: int = 2**30,
    wasserstein: bool = True,
    pairs: int = 50_000,
    spool: Path | None = None,
    fail: Fail = reraise,
    tick: Tick = lambda count: None,
) -> Iterator[list[LayerExpansion]]:
    """Expand layer after layer, each by its spec, those with one input together; yield the runs of each.

    Specs differ in how to prune, if at all. A run is a number of experts and a pattern, in this order; controls follow
    the runs of their number. Of `AUTO`, only the number that was found is returned. With `spool`, experts wait in files
    without a name in that folder, where they take memory only while they are used. `fail` is told of a layer that
    cannot be expanded, which is left out: the others are what they would be without it.

    Raises
    ------
    InputError
        If a layer has no input or weight, or `AUTO` is asked for and no token is held out.
    MemoryBudgetError
        If the experts of a layer do not fit into `memory`.
    WncoreError
        As `sum_clusters`, `fit_routing`, `prune_experts` and `score_layer`.
    """
    reading = {"skip_tokens": skip_tokens, "memory": memory, "tick": tick}
    own = {layer.name: spec for layer, spec in zip(layers, specs, strict=True)}
    spec = specs[0]
    if AUTO in spec.experts and holdout == 0:
        raise InputError("the number of experts is found by the error on tokens held out; give --holdout, or a number")
    waiting = groups(layers, skip_tokens)
    while waiting:
        group = waiting.pop(0)
        shared = {"specs": [own[layer.name] for layer in group], "reading": reading | {"holdout": holdout}}
        found = _pruned(group, backend, fail, spool=spool, **shared)
        for i, (layer, runs) in enumerate(found):
            done: list[LayerExpansion] = []
            with attempt(layer.name, fail):
                done = _scored(layer, runs, backend, pairs, reading) if wasserstein else runs
            if done:
                yield done
            elif i == 0 and found[1:]:  # the router is stored with the first
                waiting.insert(0, [other for other, _ in found[1:]])
                break


def _pruned(
    group: Sequence[Layer], backend: Backend, fail: Fail, specs: Sequence[ExpandSpec], **settings: Any
) -> list[tuple[Layer, list[LayerExpansion]]]:
    """Return the runs of each layer of a group that can be expanded; without one that fails, it is begun anew."""
    try:
        source = read_shared(group, backend, specs, **settings)
        found = _auto(source) if AUTO in specs[0].experts else _listed(source)
        return list(zip(group, found, strict=True))
    except BlamedError as error:
        fail(error.name, error.cause)
        rest = [(layer, spec) for layer, spec in zip(group, specs, strict=True) if layer.name != error.name]
    except (WriteError, BrokenPipeError):
        raise
    except Exception as error:  # of what they share
        for layer in group:
            fail(layer.name, error)
        rest = []
    layers, others = [layer for layer, _ in rest], [spec for _, spec in rest]
    return _pruned(layers, backend, fail, others, **settings) if rest else []


def _scored(
    layer: Layer, runs: Sequence[LayerExpansion], backend: Backend, pairs: int, reading: dict[str, Any]
) -> list[LayerExpansion]:
    """Score a layer's outputs before, and through the experts of each run."""
    alone, seed = replace(layer, output=None), runs[0].spec.clusters.seed
    given = {key: reading[key] for key in ("skip_tokens", "memory")}
    dense = score_layer(alone, backend, seed=seed, pairs=pairs, **given)
    scored: list[LayerExpansion] = []
    for run in runs:
        assert run.weights is not None
        moved = disentangle(alone, run.weights, run.labels, backend, dense=dense, pairs=pairs, seed=seed, **reading)
        scored.append(replace(run, dense=dense, disentanglement=moved))
    return scored


def groups(layers: Sequence[Layer], skip_tokens: int) -> list[list[Layer]]:
    """Put layers that read the same tokens of the same tensor together, in the order of the first of each.

    Raises
    ------
    InputError
        If a layer has no input or no weight.
    """
    found: list[list[Layer]] = []
    for layer in layers:
        if layer.input is None or layer.weight is None:
            raise InputError(f"{layer.name} has no input or no weight; both are needed to cluster tokens and to prune")
        for group in found:
            if same_inputs(group[0], layer, skip_tokens):
                group.append(layer)
                break
        else:
            found.append([layer])
    return found


def check_expandable(
    layer: Layer, spec: ExpandSpec, *, holdout: float, skip_tokens: int, memory: int, spool: bool = False
) -> None:
    """Raise before any work if a layer's experts do not fit into `memory`, or what is asked does not fit the layer.

    Raises
    ------
    InputError
        If there are fewer inputs than components.
    TooFewTokensError
        If there are fewer calibration tokens than experts.
    WncoreError
        As `experts_at_once`, `PruneSpec.cells`, `Layer.tokens` and `judged_from`.
    """
    assert layer.weight is not None
    m, d = layer.weight.rows, layer.weight.columns
    seen, most = judged_from(layer, layer.tokens(skip_tokens).count, holdout), max(spec.experts)
    if most > seen:
        raise TooFewTokensError(
            f"{layer.name} has {seen} tokens to calibrate by; {most} experts need as many, give fewer"
        )
    if (spec.clusters.components or 1) > d:
        raise InputError(
            f"{layer.name} has {d} inputs, and so many --components at most; got {spec.clusters.components}"
        )
    spec.prune.cells(m, d)
    others = sum(spec.experts) * (3 if spec.controls else 1) - most
    experts_at_once(layer, spec.prune.patterns, max(1, most), memory, 0 if spool else max(0, others))


def _listed(source: SharedInput) -> list[list[LayerExpansion]]:
    """Return the runs of each layer, for the numbers of experts that were asked for."""
    one = runs_of(source, 1)
    found: list[list[LayerExpansion]] = [[] for _ in source.layers]
    for k in source.specs[0].experts:
        for mine, more in zip(found, one if k == 1 else runs_of(source, k, one), strict=True):
            mine += more
    return found


def _auto(source: SharedInput) -> list[list[LayerExpansion]]:
    """Double the number of experts until the error on tokens held out, the mean of the layers, stops falling."""

    def error(runs: list[list[LayerExpansion]]) -> float:
        held = [run.errors.relative_error_holdout for mine in runs for run in mine if not run.control]
        return float(np.mean(np.array(held, np.float64)))

    one = best = runs_of(source, 1)
    k, pairs = 2, list(zip(source.layers, source.specs, strict=True))
    tried = [(1, error(one))]
    while k <= min(MOST, source.projection.calibration // source.specs[0].clusters.least_tokens):
        if not all(_fits(layer, spec, k, source.reading["memory"]) for layer, spec in pairs):
            tried.append((k, np.nan))
            break
        more = runs_of(source, k, one)
        tried.append((k, error(more)))
        if not error(more) < error(best):
            break
        best, k = more, 2 * k
    return [[replace(run, tried=tuple(tried)) for run in mine] for mine in best]


def _fits(layer: Layer, spec: ExpandSpec, k: int, memory: int) -> bool:
    try:
        return experts_at_once(layer, spec.prune.patterns, k, memory) > 0
    except MemoryBudgetError:
        return False
