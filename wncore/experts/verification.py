"""Is a file of experts what it says? All that can be told from the file alone."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wncore.errors import WncoreError
from wncore.experts.digests import tensor_digest
from wncore.experts.document import DIGEST, KEY, StoredLayer, text_digest
from wncore.experts.files import ExpertFile
from wncore.pruning.cells import Cells, cells_of
from wncore.pruning.patterns import Unstructured, parse_pattern
from wncore.tick import Tick, idle

BY_NEURON = str(Unstructured((0.0,)))
"""A pattern whose shares a document does not list."""


@dataclass(frozen=True)
class Check:
    """One thing that a file says, and whether it holds."""

    layer: str
    """Empty if it is about the file as a whole."""
    name: str
    passed: bool | None
    """None if the file does not say."""
    finding: str
    """What was found, in words."""
    recorded: Any = None
    """A number or a list of them, if it is about numbers."""
    recomputed: Any = None
    off: float | None = None
    """The largest difference between the two."""
    allowed: float | None = None
    """How large it may be, where it uses most of what is allowed; None if there is no limit."""

    @property
    def document(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return {key: _plain(value) for key, value in vars(self).items()}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


def verify_file(file: ExpertFile, tick: Tick = idle) -> list[Check]:
    """Check hashes, zeros, sizes and counts, layer by layer; what fails is an answer, not an exception."""
    checks = [_document(file), _listed(file)]
    for layer in file.layers.described.values():
        checks += [_tensors(file, layer, tick), *_zeros(file, layer, tick), _counts(file, layer)]
        tick(1)
    return checks


def _document(file: ExpertFile) -> Check:
    metadata = file.layers.header.metadata
    recorded, found = metadata.get(DIGEST), text_digest(metadata[KEY])
    finding = (
        f"SHA-256 {found[:16]}" if recorded == found else f"SHA-256 {found[:16]}, recorded is {str(recorded)[:16]}"
    )
    return Check("", "document", recorded == found, finding)


def _listed(file: ExpertFile) -> Check:
    stored, listed = file.layers.header.tensors.keys(), file.document["tensors"].keys()
    odd = sorted(stored ^ listed)
    finding = f"{len(stored)} tensors" if not odd else f"{odd[0][:80]} is not both stored and listed"
    return Check("", "list of tensors", not odd, finding)


def _tensors(file: ExpertFile, layer: StoredLayer, tick: Tick) -> Check:
    """Compare the hash of every tensor that is stored with a layer; bytes say nothing of the dtype that they are of."""
    names, changed = file.layers.names(layer), []
    for name in names:
        tensor = file.layers.tensor(name)
        found = tensor_digest(tensor, tick), tensor.dtype
        if found != (file.document["tensors"].get(name), file.document["dtypes"].get(name)):
            changed.append(name[:80])
    finding = f"SHA-256 of {len(names)} tensors"
    if changed:
        finding = f"SHA-256 or type of {', '.join(changed)} is not the recorded one"
    return Check(layer.name, "tensors", not changed, finding)


def _zeros(file: ExpertFile, layer: StoredLayer, tick: Tick) -> list[Check]:
    """Read the bias and every expert, and count its zeros where the pattern promises some."""
    try:
        cells = _cells(layer)
    except WncoreError as error:
        return [Check(layer.name, "zeros", False, f"the pattern cannot be read: {error}")]
    zeros, promised, short = [], 0 if cells is None else int(cells.counts.sum()), 0
    try:
        file.layers.bias(layer)
        for weight in file.layers.experts(layer):
            zero = weight == 0
            zeros.append(int(np.count_nonzero(zero)))
            short += cells is not None and bool((_by_cell(zero, cells) < cells.counts).any())
            tick(0)
    except WncoreError as error:
        return [Check(layer.name, "values", False, str(error))]
    return [
        Check(layer.name, "values", True, f"{layer.experts} experts {layer.shape[0]} x {layer.shape[1]}, finite"),
        _judge_zeros(layer, zeros, promised * layer.experts, short),
    ]


def _judge_zeros(layer: StoredLayer, zeros: list[int], promised: int, short: int) -> Check:
    """Compare zeros by expert with those recorded; `short` experts have fewer than the pattern promises somewhere."""
    said = layer.described
    if not {"pattern", "zeros", "zeros_per_expert"} & said.keys():
        return Check(layer.name, "zeros", None, "the document names neither pattern nor zeros")
    agrees = said.get("zeros", sum(zeros)) == sum(zeros) and said.get("zeros_per_expert", zeros) == zeros
    finding = f"{sum(zeros)} in all" + (f", {promised} asked for" if promised else "")
    if short:
        finding = f"{short} of {layer.experts} experts have fewer than {said['pattern'][:40]} asks for somewhere"
    elif not agrees:
        finding = f"{sum(zeros)} in all, by expert or in all not as many as recorded"
    return Check(layer.name, "zeros", agrees and not short, finding, said.get("zeros_per_expert"), zeros)


def _cells(layer: StoredLayer) -> Cells | None:
    """Return how many zeros are promised where, in each expert; None if no pattern says."""
    pattern = layer.described.get("pattern", BY_NEURON)
    if pattern == BY_NEURON:
        return None
    return cells_of(parse_pattern(pattern), layer.described.get("group") or "layer", *layer.shape)


def _by_cell(zero: NDArray[np.bool_], cells: Cells) -> NDArray[np.int64]:
    """Count the zeros of each cell: (m, d) -> (m, c), or (1, c) if rows are compared together."""
    counts = np.add.reduceat(zero, np.arange(0, zero.shape[1], cells.width), axis=1, dtype=np.int64)
    return counts if len(cells.counts) == len(zero) else counts.sum(axis=0, keepdims=True)


def _counts(file: ExpertFile, layer: StoredLayer) -> Check:
    """Compare the tokens of the experts with the router's counts, and their sums with the layer's tokens."""
    try:
        _, counts = file.layers.router(layer)
    except WncoreError as error:
        return Check(layer.name, "router", False, str(error))
    said = layer.described
    seen, held = said.get("tokens_per_expert"), said.get("holdout_per_expert")
    if seen is None:
        return Check(layer.name, "router", None, "the document does not say how many tokens each expert has")
    finding = f"{sum(seen)} tokens of {layer.experts} experts"
    faults = {
        "tokens_per_expert is not what the router counted": seen != counts.tolist(),
        "tokens_per_expert does not add up to tokens": sum(seen) != said.get("tokens", sum(seen)),
        f"holdout_per_expert is not of {layer.experts} experts": held is not None and len(held) != layer.experts,
        "holdout_per_expert does not add up to tokens_holdout": held is not None
        and sum(held) != said.get("tokens_holdout", sum(held)),
    }
    wrong = [fault for fault, found in faults.items() if found]
    return Check(layer.name, "router", not wrong, "; ".join(wrong) or finding, seen, counts.tolist())
