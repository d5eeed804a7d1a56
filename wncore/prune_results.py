"""Pruned layers as documents and files: the report ``wncore.prune/1``, and weights that anything can load."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wncore.dumps.write import write_tensors
from wncore.layer_pruning import LayerPruning
from wncore.matrix import LinearLayer
from wncore.pruning.patterns import SemiStructured
from wncore.results import number, numbers

SCHEMA = "wncore.prune/1"


def prune_document(
    source: str, prunings: Sequence[Sequence[LayerPruning]], settings: dict[str, Any], neurons: bool = True
) -> dict[str, Any]:
    """Build the document; `prunings` holds each layer's results by pattern: several patterns become ``runs``."""
    head: dict[str, Any] = {"schema": SCHEMA, "source": source, **settings}
    runs = [
        {"pattern": str(run[0].pattern), "layers": [describe_layer(one, neurons) for one in run]}
        for run in zip(*prunings, strict=True)
    ]
    return head | (runs[0] if len(runs) == 1 else {"runs": runs})


def describe_layer(one: LayerPruning, neurons: bool = True) -> dict[str, Any]:
    """Describe one pruned layer, with or without its neurons."""
    layer: dict[str, Any] = {
        "name": one.name,
        "shape": list(one.shape),
        "tokens": one.tokens,
        "tokens_holdout": one.holdout_tokens,
        "method": one.spec.method,
        "group": None if isinstance(one.pattern, SemiStructured) else one.spec.compared,
        "resolved": one.spec.resolved,
        "iterations": one.spec.iterations if one.spec.method == "admm" else None,
        "bits": one.spec.bits,
        "bits_group": one.spec.bits_group,
        "pattern": str(one.pattern),
        "zeros": one.zeros,
        "relative_error": number(one.relative_error),
        "relative_error_holdout": number(one.relative_error_holdout),
        "damping": {
            "kind": one.spec.damping,
            "ridge": one.ridge,
            "zeros_ridge": one.zeros_ridge,
            "raised": one.raised,
        },
        "condition": number(one.condition),
        "rank": one.rank,
        "warnings": one.warnings,
    }
    if neurons:
        columns = {
            "relative_error": one.neuron_error,
            "relative_error_holdout": one.neuron_error_holdout,
            "sparsity": one.neuron_sparsity,
            "wasserstein_dense": one.wasserstein_dense,
            "wasserstein_sparse": one.wasserstein_sparse,
        }
        layer["neurons"] = {name: None if column is None else numbers(column) for name, column in columns.items()}
    return layer


def write_pruned(
    path: Path,
    layers: Sequence[LinearLayer],
    pruned: Sequence[LayerPruning],
    document: dict[str, Any],
    force: bool = False,
) -> None:
    """Write the weights of pruned layers under their own names, dense with exact zeros, and their biases.

    The report without its neurons is in the metadata, under ``wncore.prune``.

    Raises
    ------
    WncoreError
        As `write_tensors`.
    """
    tensors: dict[str, NDArray] = {}
    for layer, one in zip(layers, pruned, strict=True):
        assert layer.weight is not None
        assert one.weight is not None
        tensors[layer.weight.name] = one.weight
        if layer.bias is not None:
            tensors[layer.bias.name] = layer.bias.read()[:, 0]
    described = {"wncore.schema": "1", "wncore.prune": json.dumps(document, allow_nan=False)}
    write_tensors(path, tensors, described, force)
