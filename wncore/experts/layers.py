"""Expand the layers of a dump into sparse experts, those that share an input by one router."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wncore.backend import Backend
from wncore.calibration import eigenvalues, rank
from wncore.dumps.layer import Layer
from wncore.errors import InputError, NonFiniteError
from wncore.experts.disentanglement import disentangle
from wncore.experts.expansion import AUTO, Control, ExpandSpec, LayerExpansion
from wncore.experts.fitting import Projection, Routing, fit_routing, project_inputs
from wncore.experts.losses import expert_errors, relative_improvement
from wncore.experts.pruned import experts_at_once, prune_experts
from wncore.inputs import Tick
from wncore.layer_pruning import same_inputs
from wncore.pruning.patterns import Pattern, Unstructured
from wncore.scoring import score_layer
from wncore.sums import ClusterSums, sum_clusters

MOST = 1024
"""Experts that `AUTO` tries, at most."""


@dataclass(frozen=True, eq=False)
class _Input:
    """One input, the layers that read it, and what is known of it before any cluster is."""

    layers: Sequence[Layer]
    dense: Sequence[NDArray]
    """(m, d) by layer, as stored"""
    sums: ClusterSums
    """Of one cluster"""
    projection: Projection
    backend: Backend
    specs: Sequence[ExpandSpec]
    """By layer; they differ in how to prune, if at all"""
    reading: dict[str, Any]
    """Settings of whatever reads the input"""


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
    tick: Tick = lambda count: None,
) -> Iterator[list[LayerExpansion]]:
    """Expand layer after layer, each by its spec, those with one input together; yield the runs of each.

    Specs differ in how to prune, if at all. A run is a number of experts and a pattern, in this order; controls follow
    the runs of their number. Of `AUTO`, only the number that was found is returned.

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
    for group in groups(layers, skip_tokens):
        source = _read(group, backend, [own[layer.name] for layer in group], reading | {"holdout": holdout})
        found = _auto(source) if AUTO in spec.experts else _listed(source)
        for layer, runs in zip(group, found, strict=True):
            if not wasserstein:
                yield runs
                continue
            alone = replace(layer, output=None)
            dense = score_layer(
                alone, backend, seed=spec.clusters.seed, skip_tokens=skip_tokens, pairs=pairs, memory=memory
            )
            seeded = {"dense": dense, "pairs": pairs, "seed": spec.clusters.seed}
            scored = []
            for run in runs:
                assert run.weights is not None
                moved = disentangle(alone, run.weights, run.labels, backend, **seeded, **reading)
                scored.append(replace(run, dense=dense, disentanglement=moved))
            yield scored


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


def check_expandable(layer: Layer, spec: ExpandSpec, skip_tokens: int, memory: int) -> None:
    """Raise before any work if a layer's experts do not fit into `memory`, or a pattern does not fit the layer.

    Raises
    ------
    WncoreError
        As `experts_at_once`, `PruneSpec.cells` and `Layer.tokens`.
    """
    assert layer.weight is not None
    layer.tokens(skip_tokens)
    spec.prune.cells(layer.weight.rows, layer.weight.columns)
    experts_at_once(layer, spec.prune.patterns, max(spec.experts), memory)


def _read(group: Sequence[Layer], backend: Backend, specs: Sequence[ExpandSpec], reading: dict[str, Any]) -> _Input:
    dense = []
    for layer in group:
        assert layer.weight is not None
        dense.append(layer.weight.read())
        layer.weight.check_finite(dense[-1])
    sums = sum_clusters(group[0], backend, **reading)
    projection = project_inputs(group[0], backend, sums, specs[0].clusters, **reading)
    return _Input(group, dense, sums, projection, backend, specs, reading)


def _listed(source: _Input) -> list[list[LayerExpansion]]:
    """Return the runs of each layer, for the numbers of experts that were asked for."""
    one = _runs(source, 1)
    found: list[list[LayerExpansion]] = [[] for _ in source.layers]
    for k in source.specs[0].experts:
        for mine, more in zip(found, one if k == 1 else _runs(source, k, one), strict=True):
            mine += more
    return found


def _auto(source: _Input) -> list[list[LayerExpansion]]:
    """Double the number of experts until the error on tokens held out, the mean of the layers, stops falling."""

    def error(runs: list[list[LayerExpansion]]) -> float:
        held = [run.errors.relative_error_holdout for mine in runs for run in mine if not run.control]
        return float(np.mean(np.array(held, np.float64)))

    one = best = _runs(source, 1)
    k = 2
    while k <= min(MOST, source.projection.calibration // source.specs[0].clusters.least_tokens):
        more = _runs(source, k, one)
        if not error(more) < error(best):
            break
        best, k = more, 2 * k
    return best


def _runs(source: _Input, k: int, one: list[list[LayerExpansion]] | None = None) -> list[list[LayerExpansion]]:
    """Expand each layer into k experts by each pattern, with controls; `one` has the runs of a single expert."""
    spec, backend, tick = source.specs[0], source.backend, source.reading["tick"]
    routing = fit_routing(source.projection, k, spec.clusters, backend, tick)
    found = _expand(source, routing, k, None, one)
    if spec.controls and k > 1:
        random = fit_routing(source.projection, k, replace(spec.clusters, balanced=False, random=True), backend, tick)
        controls = [_expand(source, random, k, "random", one)]
        if all(isinstance(pattern, Unstructured) for pattern in spec.prune.patterns):  # of N:M no part can be taken
            controls.append(_expand(source, routing, k, "stored", one))
        for control in controls:
            found = [mine + more for mine, more in zip(found, control, strict=True)]
    return found


def thinned(pattern: Pattern, k: int) -> Pattern:
    """Return the sparsity at which k experts together store as many weights as one does: 1 - (1 - s) / k.

    >>> thinned(Unstructured(0.5), 2)
    Unstructured(sparsity=0.75)
    """
    assert isinstance(pattern, Unstructured)
    if isinstance(pattern.sparsity, tuple):
        return Unstructured(tuple(1 - (1 - one) / k for one in pattern.sparsity))
    return Unstructured(1 - (1 - pattern.sparsity) / k)


def _expand(
    source: _Input,
    routing: Routing,
    asked: int,
    control: Control | None,
    one: list[list[LayerExpansion]] | None,
) -> list[list[LayerExpansion]]:
    """Prune the experts of each layer by each pattern, and judge them."""
    reading, sums = source.reading, source.sums
    if routing.experts > 1:
        sums = sum_clusters(source.layers[0], source.backend, routing.labels, routing.experts, **reading)
    ranks = [rank(eigenvalues(gram), int(count)) for gram, count in zip(sums.grams, sums.tokens, strict=True)]
    found: list[list[LayerExpansion]] = []
    for i, (layer, dense, spec) in enumerate(zip(source.layers, source.dense, source.specs, strict=True)):
        patterns = spec.prune.patterns
        if control == "stored":
            patterns = tuple(thinned(pattern, routing.experts) for pattern in patterns)
        pruned = prune_experts(
            layer,
            dense,
            sums,
            replace(spec.prune, patterns=patterns),
            source.backend,
            prior=spec.prior,
            ridge=spec.ridge,
            memory=reading["memory"],
            tick=reading["tick"],
        )
        runs = []
        for p, weights in enumerate(pruned.weights):
            errors = expert_errors(weights, dense, sums)
            if np.isnan(errors.relative_error):
                raise NonFiniteError(f"{layer.name}: its outputs overflow float64; scale the input or the weights down")
            before = errors if one is None else one[i][p].errors
            held = None
            if errors.neuron_error_holdout is not None and before.neuron_error_holdout is not None:
                held = relative_improvement(before.neuron_error_holdout, errors.neuron_error_holdout)
            runs.append(
                LayerExpansion(
                    name=layer.name,
                    shape=(dense.shape[0], dense.shape[1]),
                    asked=asked,
                    control=control,
                    weights=weights,
                    bias=None if layer.bias is None else layer.bias.read()[:, 0],
                    router=routing.router,
                    router_of=source.layers[0].name,
                    labels=routing.labels,
                    pattern=patterns[p],
                    spec=spec,
                    tokens_per_expert=sums.tokens,
                    holdout_per_expert=sums.holdout_tokens,
                    merged=routing.merged,
                    explained=source.projection.explained,
                    inertia=routing.inertia,
                    rank=np.array(ranks),
                    own=pruned.own,
                    ridge=pruned.ridge,
                    raised=pruned.raised,
                    zeros=np.count_nonzero(weights == 0, axis=(1, 2)),
                    errors=errors,
                    relative_improvement=relative_improvement(before.neuron_error, errors.neuron_error),
                    relative_improvement_holdout=held,
                    dense=None,
                    disentanglement=None,
                )
            )
        found.append(runs)
    return found
