"""Expand layers into sparse experts, those that share an input by one router."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wncore.dumps.orientation import check_orientation
from wncore.errors import InputError, MemoryBudgetError, TooFewTokensError
from wncore.experts.disentanglement import disentangle
from wncore.experts.expansion import AUTO, ExpandSpec, LayerExpansion
from wncore.experts.pruned import experts_at_once
from wncore.experts.runs import SharedInput, read_shared, runs_of
from wncore.failures import NO_FAULT, BlamedError, Fail, attempt, reraise
from wncore.layers.activations import Activations
from wncore.scoring import score_layer
from wncore.tick import idle

MOST = 1024
"""Experts that `AUTO` tries, at most."""


def expand_layers(
    opened: Sequence[Activations],
    specs: Sequence[ExpandSpec],
    *,
    wasserstein: bool = True,
    pairs: int = 50_000,
    spool: Path | None = None,
    fail: Fail = reraise,
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
        If the experts of a layer do not fit into the memory that is allowed.
    WncoreError
        As `sum_clusters`, `fit_routing`, `prune_experts` and `score_layer`.
    """
    own = {one.name: spec for one, spec in zip(opened, specs, strict=True)}
    if AUTO in specs[0].experts and not all(one.holdout for one in opened):
        raise InputError("the number of experts is found by the error on tokens held out; give --holdout, or a number")
    waiting = groups(opened)
    while waiting:
        group = waiting.pop(0)
        found = _pruned(group, [own[one.name] for one in group], spool, fail)
        for i, (one, runs) in enumerate(found):
            done: list[LayerExpansion] = []
            with attempt(one.name, fail):
                done = _scored(one, runs, pairs) if wasserstein else runs
            if done:
                yield done
            elif i == 0 and found[1:]:  # the router is stored with the first
                waiting.insert(0, [other for other, _ in found[1:]])
                break


def _pruned(
    group: Sequence[Activations], specs: Sequence[ExpandSpec], spool: Path | None, fail: Fail
) -> list[tuple[Activations, list[LayerExpansion]]]:
    """Return the runs of each layer of a group that can be expanded; without one that fails, it is begun anew."""
    try:
        source = read_shared(group, specs, spool)
        found = _auto(source) if AUTO in specs[0].experts else _listed(source)
        return list(zip(group, found, strict=True))
    except BlamedError as error:
        fail(error.name, error.cause)
        rest = [(one, spec) for one, spec in zip(group, specs, strict=True) if one.name != error.name]
    except NO_FAULT:
        raise
    except Exception as error:  # of what they share
        for one in group:
            fail(one.name, error)
        rest = []
    return _pruned([one for one, _ in rest], [spec for _, spec in rest], spool, fail) if rest else []


def _scored(activations: Activations, runs: list[LayerExpansion], pairs: int) -> list[LayerExpansion]:
    """Say how entangled the neurons were, and are in each run."""
    seed = runs[0].spec.clusters.seed
    alone = activations.alone()
    dense = score_layer(alone.telling(idle), seed=seed, pairs=pairs)
    scored = []
    for run in runs:
        assert run.weights is not None
        moved = disentangle(alone, run.weights, run.labels, dense=dense, pairs=pairs, seed=seed)
        scored.append(replace(run, dense=dense, disentanglement=moved))
    return scored


def groups(opened: Sequence[Activations]) -> list[list[Activations]]:
    """Put layers that read the same tokens of the same tensor together, in the order of the first of each.

    Raises
    ------
    InputError
        If a layer has no input or no weight.
    """
    found: list[list[Activations]] = []
    for one in opened:
        if not one.layer.expandable:
            raise InputError(f"{one.name} has no input or no weight; both are needed to cluster tokens and to prune")
        for group in found:
            if group[0].shares_input(one):
                group.append(one)
                break
        else:
            found.append([one])
    return found


def check_expandable(activations: Activations, spec: ExpandSpec, spool: bool = False) -> None:
    """Raise before any work if a layer's experts do not fit into memory, or what is asked does not fit the layer.

    Raises
    ------
    InputError
        If there are fewer inputs than components.
    TooFewTokensError
        If there are fewer calibration tokens than experts.
    WncoreError
        As `experts_at_once`, `PruneSpec.cells`, `check_orientation` and `Activations.calibration`.
    """
    check_orientation(activations.layer, activations.tokens)
    (m, d), seen, most = activations.shape, activations.calibration, max(spec.experts)
    if most > seen:
        raise TooFewTokensError(
            f"{activations.name} has {seen} tokens to calibrate by; {most} experts need as many, give fewer"
        )
    if (spec.clusters.components or 1) > d:
        raise InputError(
            f"{activations.name} has {d} inputs, and so many --components at most; got {spec.clusters.components}"
        )
    spec.prune.cells(m, d)
    others = sum(spec.experts) * (3 if spec.controls else 1) - most
    experts_at_once(activations, spec.prune.patterns, max(1, most), 0 if spool else max(0, others))


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
        if not all(_fits(one, spec, k) for one, spec in pairs):
            tried.append((k, np.nan))
            break
        more = runs_of(source, k, one)
        tried.append((k, error(more)))
        if not error(more) < error(best):
            break
        best, k = more, 2 * k
    return [[replace(run, tried=tuple(tried)) for run in mine] for mine in best]


def _fits(activations: Activations, spec: ExpandSpec, k: int) -> bool:
    try:
        return experts_at_once(activations, spec.prune.patterns, k) > 0
    except MemoryBudgetError:
        return False
