"""Expanded layers as the document ``wncore.expand/1``. Undefined numbers are null, never NaN."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from wncore.experts.association import associations
from wncore.experts.disentanglement import changes
from wncore.experts.document import SCHEMA
from wncore.experts.expansion import LayerExpansion
from wncore.pruning.patterns import SemiStructured
from wncore.results import number, numbers


def expand_document(
    source: str, expansions: Sequence[Sequence[LayerExpansion]], settings: dict[str, Any], neurons: bool = True
) -> dict[str, Any]:
    """Build the document; `expansions` holds each layer's runs, which correspond: several become ``runs``."""
    head: dict[str, Any] = {"schema": SCHEMA, "source": source, **settings}
    runs = [
        {
            "asked": run[0].asked,
            "pattern": str(run[0].pattern),
            "control": run[0].control,
            "layers": [describe_expansion(one, neurons) for one in run],
        }
        for run in zip(*expansions, strict=True)
    ]
    return head | ({"layers": runs[0]["layers"]} if len(runs) == 1 else {"runs": runs})


def describe_expansion(one: LayerExpansion, neurons: bool = True) -> dict[str, Any]:
    """Describe one layer and its experts, with or without its neurons."""
    spec, clusters, errors = one.spec.prune, one.spec.clusters, one.errors
    held = errors.expert_error_holdout
    layer: dict[str, Any] = {
        "name": one.name,
        "shape": list(one.shape),
        "experts": len(one.zeros),
        "asked": one.asked,
        "merged": one.merged,
        "control": one.control,
        "tried": [[k, number(error)] for k, error in one.tried] or None,
        "router": None if one.router is None else one.router_of,
        "tokens": int(one.tokens_per_expert.sum()),
        "tokens_holdout": int(one.holdout_per_expert.sum()),
        "tokens_per_expert": one.tokens_per_expert.tolist(),
        "holdout_per_expert": one.holdout_per_expert.tolist(),
        "rank_per_expert": one.rank.tolist(),
        "method": spec.method,
        "group": None if isinstance(one.pattern, SemiStructured) else spec.compared,
        "resolved": spec.resolved,
        "iterations": spec.iterations if spec.method == "admm" else None,
        "bits": spec.bits,
        "bits_group": spec.bits_group,
        "pattern": str(one.pattern),
        "zeros": int(one.zeros.sum()),
        "zeros_per_expert": one.zeros.tolist(),
        "stored_weights": one.stored,
        "relative_error": number(errors.relative_error),
        "relative_error_holdout": number(errors.relative_error_holdout),
        "relative_error_per_expert": numbers(errors.expert_error),
        "relative_error_holdout_per_expert": None if held is None else numbers(held),
        "damping": {
            "kind": spec.damping,
            "ridge": one.ridge.tolist(),
            "zeros_ridge": one.zeros_ridge.tolist(),
            "raised": one.raised.tolist(),
        },
        "prior": one.spec.prior,
        "own_share_per_expert": one.own.tolist(),
        "clusters": {
            "components": one.components,
            "explained": number(one.explained),
            "inertia": number(one.inertia),
            "balanced": None if one.router is None else clusters.balanced,
            "restarts": None if one.router is None else clusters.restarts,
            "seed": clusters.seed,
            "least_tokens": clusters.least_tokens,
        },
        "disentanglement": _disentanglement(one),
        "warnings": one.warnings,
    }
    if neurons:
        layer["neurons"] = _neurons(one)
    return layer


def _disentanglement(one: LayerExpansion) -> dict[str, Any] | None:
    """Sum up what became of entangled neurons, and what predicts who gains."""
    if one.dense is None or one.disentanglement is None:
        return None
    held = one.relative_improvement_holdout
    found = associations(one.relative_improvement if held is None else held, one.dense, seed=one.spec.clusters.seed)
    return {
        "noise": number(one.disentanglement.noise),
        "changes": {
            name: {whose: _finite(asdict(change)) for whose, change in groups.items()}
            for name, groups in changes(one.dense, one.disentanglement).items()
        },
        "improvement_explained_by": {name: _finite(asdict(fit)) for name, fit in found.items()},
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: number(value) if isinstance(value, float) else value for name, value in values.items()}


def _neurons(one: LayerExpansion) -> dict[str, list[float | None] | None]:
    dense, found, errors = one.dense, one.disentanglement, one.errors
    columns = {
        "relative_error": errors.neuron_error,
        "relative_error_holdout": errors.neuron_error_holdout,
        "relative_improvement": one.relative_improvement,
        "relative_improvement_holdout": one.relative_improvement_holdout,
        "wasserstein_dense": None if dense is None else dense.wasserstein,
        "wasserstein_weighted": None if found is None else found.wasserstein_weighted,
        "wasserstein_weighted_dense": None if found is None else found.wasserstein_weighted_dense,
        "difficulty_dense": None if dense is None else dense.mapping_difficulty,
        "difficulty_weighted": None if found is None else found.difficulty_weighted,
        "two_sample": None if found is None else found.two_sample,
    }
    return {name: None if values is None else numbers(values) for name, values in columns.items()}
