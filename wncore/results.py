"""Scores as documents and files: JSON, CSV, Parquet and safetensors. Undefined numbers are null, never NaN."""

import csv
import json
from collections.abc import Sequence
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wncore.dumps.write import write_tensors
from wncore.errors import InputError, ShapeError
from wncore.files import check_output, replacing
from wncore.scoring import LayerScore

FORMATS = (".parquet", ".csv", ".json", ".safetensors")
FLAGS = ("constant", "first_token", "wide_bounds")


def score_document(
    source: str,
    scores: Sequence[LayerScore],
    settings: dict[str, Any],
    against: tuple[str, dict[str, LayerScore]] | None = None,
) -> dict[str, Any]:
    """Build the document ``wncore.score/1``; `settings` are written as they are; `against` adds a second dump."""
    document: dict[str, Any] = {"schema": "wncore.score/1", "source": source, **settings}
    if against is not None:
        document["against"] = against[0]
    document["layers"] = []
    for score in scores:
        layer: dict[str, Any] = {
            "name": score.name,
            "tokens": score.tokens,
            "neurons": score.neurons,
            "noise_floor": score.noise_floor,
            "pairs": score.pairs,
            "dropped_pairs": score.dropped_pairs,
            "mapping_difficulty": None,
        }
        layer |= {} if score.sinks is None else {"sinks": score.sinks}
        columns = score.columns()
        layer |= {name: numbers(values) for name, values in columns.items() if name not in FLAGS}
        layer["flags"] = {name: np.flatnonzero(columns[name]).tolist() if name in columns else None for name in FLAGS}
        if against is not None:
            layer |= _comparison(score, against[1].get(score.name))
        document["layers"].append(layer)
    return document


def _comparison(score: LayerScore, other: LayerScore | None) -> dict[str, Any]:
    """Describe the same layer of a second dump, and each neuron's change; null if it could not be scored there."""
    if other is None:
        return {"against": None, "wasserstein_change": [None] * score.neurons}
    described = {
        "tokens": other.tokens,
        "noise_floor": other.noise_floor,
        "wasserstein": numbers(other.wasserstein),
        "wasserstein_error": numbers(other.wasserstein_error),
    }
    return {"against": described, "wasserstein_change": numbers(change(score, other))}


def change(score: LayerScore, other: LayerScore) -> NDArray[np.float64]:
    """Return how much larger each neuron's distance is in `other`, (m,).

    Raises
    ------
    ShapeError
        If the two do not have the same neurons.
    """
    if score.neurons != other.neurons:
        raise ShapeError(f"{score.name} has {score.neurons} neurons in one dump and {other.neurons} in the other")
    return other.wasserstein - score.wasserstein


def to_json(document: dict[str, Any]) -> str:
    """Write a document without NaN."""
    return json.dumps(document, allow_nan=False)


def check_target(path: Path, force: bool) -> None:
    """Raise before any work what `write_scores` would raise after it.

    Raises
    ------
    InputError
        If the extension is unknown, or Parquet is asked for without pyarrow.
    WncoreError
        As `check_output`.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: the extension {path.suffix!r} is unknown; choose one of {' '.join(FORMATS)}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise InputError(f"{path}: Parquet needs pyarrow, which is not installed: pip install 'wncore[parquet]'")
    check_output(path, force)


def write_scores(path: Path, scores: Sequence[LayerScore], document: dict[str, Any], force: bool = False) -> None:
    """Write all neurons of all layers to `path`, in the format of its extension, atomically."""
    check_target(path, force)
    if path.suffix == ".safetensors":
        tensors = {f"{score.name}.{name}": values for score in scores for name, values in score.columns().items()}
        for score, delta in zip(scores, _changes(document), strict=False):
            tensors[f"{score.name}.wasserstein_change"] = delta
        described = {key: _text(value) for key, value in document.items() if key != "layers"}
        write_tensors(path, tensors, described, force)
        return
    with replacing(path, force) as temporary:
        if path.suffix == ".json":
            temporary.write_text(to_json(document) + "\n", encoding="utf-8")
        elif path.suffix == ".csv":
            _write_csv(temporary, scores, document)
        else:
            _write_parquet(temporary, scores, document)


def score_table(scores: Sequence[LayerScore], document: dict[str, Any]) -> dict[str, NDArray]:
    """Lay all layers out as one table with a row a neuron; what a layer lacks is NaN."""
    names = list(dict.fromkeys(name for score in scores for name in score.columns()))
    table: dict[str, NDArray] = {
        "layer": np.concatenate([np.full(score.neurons, score.name, object) for score in scores]),
        "neuron": np.concatenate([np.arange(score.neurons) for score in scores]),
    }
    for name in names:
        parts = [score.columns().get(name, np.full(score.neurons, np.nan)) for score in scores]
        table[name] = np.concatenate(parts)
    for name in ("tokens", "noise_floor"):
        table[name] = np.concatenate([np.full(score.neurons, getattr(score, name)) for score in scores])
    if "against" in document:
        table["wasserstein_change"] = np.concatenate(_changes(document))
    return table


def _changes(document: dict[str, Any]) -> list[NDArray]:
    """Return each layer's change of distance, none without a second dump."""
    return (
        [np.array(layer["wasserstein_change"], float) for layer in document["layers"]] if "against" in document else []
    )


def _text(value: Any) -> str:
    """Write a setting as metadata; a list, of what failed, as JSON."""
    return json.dumps(value) if isinstance(value, list) else str(value)


def _write_csv(path: Path, scores: Sequence[LayerScore], document: dict[str, Any]) -> None:
    table = score_table(scores, document)
    columns = [numbers(values) if values.dtype.kind == "f" else values.tolist() for values in table.values()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*columns, strict=True))


def _write_parquet(path: Path, scores: Sequence[LayerScore], document: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = score_table(scores, document)
    described = {f"wncore.{key}": _text(value) for key, value in document.items() if key != "layers"}
    arrays = {name: pa.array(values, from_pandas=True) for name, values in table.items()}
    pq.write_table(pa.table(arrays).replace_schema_metadata(described), path)


def numbers(values: NDArray) -> list[float | None]:
    """List numbers for JSON."""
    return [number(value) for value in values.tolist()]


def number(value: float | None) -> float | None:
    """Return a number for JSON, None if it is not finite."""
    return value if value is not None and isfinite(value) else None
