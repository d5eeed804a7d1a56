"""The layers of one input as k experts each: pruned by each pattern, judged, with their controls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wncore.calibration import eigenvalues, rank
from wncore.errors import NonFiniteError
from wncore.experts.expansion import Control, ExpandSpec, LayerExpansion
from wncore.experts.fitting import Projection, Routing, fit_routing, project_inputs, random_routing
from wncore.experts.losses import expert_errors, relative_improvement
from wncore.experts.pruned import prune_experts
from wncore.failures import blaming
from wncore.files import spool as spooled
from wncore.layers.activations import Activations
from wncore.pruning.patterns import Pattern, Unstructured
from wncore.sums import ClusterSums, sum_clusters


@dataclass(frozen=True, eq=False)
class SharedInput:
    """One input, the layers that read it, and what is known of it before any cluster is."""

    layers: Sequence[Activations]
    dense: Sequence[NDArray]
    """(m, d) by layer, as stored"""
    sums: ClusterSums
    """Of one cluster"""
    projection: Projection
    specs: Sequence[ExpandSpec]
    """By layer; they differ in how to prune, if at all"""
    spool: Path | None
    """Where experts wait until they are saved; None: in memory"""


def read_shared(group: Sequence[Activations], specs: Sequence[ExpandSpec], spool: Path | None) -> SharedInput:
    """Read the weights of layers with one input, sum the input up and project it; a bad weight raises `BlamedError`."""
    dense: list[NDArray] = []
    for one in group:
        with blaming(one.name):
            dense.append(one.read_weight())
    sums = sum_clusters(group[0])
    return SharedInput(group, dense, sums, project_inputs(group[0], sums, specs[0].clusters), specs, spool)


def runs_of(source: SharedInput, k: int, one: list[list[LayerExpansion]] | None = None) -> list[list[LayerExpansion]]:
    """Expand each layer into k experts by each pattern, with controls; `one` has the runs of a single expert."""
    spec, first = source.specs[0], source.layers[0]
    routing = fit_routing(source.projection, k, spec.clusters, first.backend, first.tick)
    found = _expand(source, routing, k, None, one)
    if spec.controls and k > 1:
        random = random_routing(source.projection, routing.experts, spec.clusters.seed)
        controls: list[tuple[Routing, Control]] = [(random, "random"), (routing, "stored")]
        for clusters, control in controls:
            more = _expand(source, clusters, k, control, one)
            found = [mine + others for mine, others in zip(found, more, strict=True)]
    return found


def thinned(pattern: Unstructured, k: int) -> Unstructured:
    """Return the sparsity at which k experts together store as many weights as one does: 1 - (1 - s) / k.

    >>> thinned(Unstructured(0.5), 2)
    Unstructured(sparsity=0.75)
    """
    if isinstance(pattern.sparsity, tuple):
        return Unstructured(tuple(1 - (1 - one) / k for one in pattern.sparsity))
    return Unstructured(1 - (1 - pattern.sparsity) / k)


def _expand(
    source: SharedInput,
    routing: Routing,
    asked: int,
    control: Control | None,
    one: list[list[LayerExpansion]] | None,
) -> list[list[LayerExpansion]]:
    """Prune the experts of each layer by each pattern, and judge them."""
    sums = source.sums
    if routing.experts > 1:
        sums = sum_clusters(source.layers[0], routing.labels, routing.experts)
    ranks = [rank(eigenvalues(gram), int(count)) for gram, count in zip(sums.grams, sums.tokens, strict=True)]
    found: list[list[LayerExpansion]] = []
    for i, (own, dense, spec) in enumerate(zip(source.layers, source.dense, source.specs, strict=True)):
        patterns: dict[int, Pattern] = dict(enumerate(spec.prune.patterns))
        if control == "stored":  # of N:M no part can be taken
            plain = {p: pattern for p, pattern in patterns.items() if isinstance(pattern, Unstructured)}
            patterns = {p: thinned(pattern, routing.experts) for p, pattern in plain.items()}
        if not patterns:
            found.append([])
            continue
        with blaming(own.name):
            pruned = prune_experts(
                own,
                dense,
                sums,
                replace(spec.prune, patterns=tuple(patterns.values())),
                prior=spec.prior,
                ridge=spec.ridge,
            )
            runs = []
            for place, ((p, pattern), weights) in enumerate(zip(patterns.items(), pruned.weights, strict=True)):
                errors = expert_errors(weights, dense, sums, own.backend)
                if np.isnan(errors.relative_error):
                    raise NonFiniteError(
                        f"{own.name}: its outputs overflow float64; scale the input or the weights down"
                    )
                before = errors if one is None else one[i][p].errors
                held = None
                if errors.neuron_error_holdout is not None and before.neuron_error_holdout is not None:
                    held = relative_improvement(before.neuron_error_holdout, errors.neuron_error_holdout)
                runs.append(
                    LayerExpansion(
                        name=own.name,
                        shape=(dense.shape[0], dense.shape[1]),
                        asked=asked,
                        control=control,
                        weights=weights if source.spool is None else spooled(weights, source.spool),
                        bias=None if own.layer.bias is None else own.layer.bias.read()[:, 0],
                        router=routing.router,
                        router_of=source.layers[0].name,
                        labels=routing.labels,
                        pattern=pattern,
                        spec=spec,
                        tokens_per_expert=sums.tokens,
                        holdout_per_expert=sums.holdout_tokens,
                        merged=routing.merged,
                        explained=source.projection.explained,
                        inertia=routing.inertia,
                        rank=np.array(ranks),
                        own=pruned.own,
                        ridge=pruned.ridge[place],
                        zeros_ridge=pruned.zeros_ridge[place],
                        raised=pruned.raised[place],
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
