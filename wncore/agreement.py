"""Why outputs and input x weight disagree: rounding in the run that they are from explains it, or nothing does.

A sum of d terms that are rounded at random strays by units of sqrt(sum_j w_j^2 x_j^2), of the output and of the bias;
the unit is that of what rounded. Outputs that were widened after the run still show it by their bits, and products in
TF32, whose factors have 11 bits, by the size of the gap. A gap that is equal on all tokens is a missing bias.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wncore.dumps.tensor import UNIT, as_floats
from wncore.layers.activations import Activations
from wncore.matrix import LinearLayer
from wncore.normal import Float
from wncore.norms import norms
from wncore.outputs import Outputs
from wncore.tolerance import budget

WIDENED = ("bfloat16", "float16", "float32")
"""What outputs may have been rounded to before they were stored in a wider dtype."""
NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
TF32 = 2.0**-11
LEAST = TF32 / 8
"""The least gap that looks like TF32, in units of the root above; 0.8 of TF32's unit is common."""
VARYING = 1 / 8
"""Share of a gap's energy that varies from token to token, at least, if rounding made it."""


@dataclass
class _Sums:
    """Of a few neurons, over all tokens: Euclidean norms (t,), and how many outputs fit into narrower dtypes."""

    gap: Float
    output: Float
    terms: Float
    """Of sqrt(sum_j w_j^2 x_j^2)"""
    shift: Float
    """The plain sum of the gap, signs kept"""
    stored_wide: dict[str, int]
    """Outputs that a narrower dtype does not hold, by its name"""
    computed_wide: dict[str, int]
    """Of those computed again"""
    count: int = 0


def explain(activations: Activations) -> tuple[str | None, NDArray[np.bool_]]:
    """Say what rounding explains the disagreement of a layer, and of which neurons: name, (m,).

    The name is "cancellation" if the dtypes that are stored suffice, and the outputs are small beside their terms; that
    of the dtype that the outputs had before they were widened; or "TF32". None if nothing explains all neurons.
    """
    layer, tokens, (m, d) = activations.layer, activations.tokens, activations.shape
    width = max(1, min(m, activations.memory // 8 // (32 * d)))
    parts = [_sum_up(activations, slice(k, min(m, k + width))) for k in range(0, m, width)]
    gap, output, terms = (_joined(parts, key) for key in ("gap", "output", "terms"))
    if layer.bias is not None:
        output = output + np.sqrt(tokens.count) * np.abs(as_floats(layer.bias.read())[:, 0].astype(np.float64))
    best = np.zeros(m, bool)
    for name, unit, arithmetic in _candidates(layer, parts, tokens.count):
        allowed = unit * (output + terms) + budget(arithmetic, d, output + terms)
        explained = gap <= allowed
        if explained.all():
            return name, explained
        best |= explained
    return None, best


def _candidates(layer: LinearLayer, parts: list[_Sums], tokens: int) -> Iterator[tuple[str, float, str]]:
    """Name what may have rounded, twice its unit, and the dtype of its sums."""
    held = [tensor.dtype for tensor in (layer.input, layer.weight, layer.bias, layer.output) if tensor is not None]
    coarsest = max(UNIT.get(dtype, 0.125) for dtype in held)
    yield "cancellation", 2 * coarsest, "float64" if coarsest == UNIT["F64"] else "float32"
    gap, terms, shift = (norms(_joined(parts, key), axis=0) for key in ("gap", "terms", "shift"))
    if gap**2 - shift**2 / tokens < VARYING * gap**2:
        return
    for name in WIDENED:
        stored, computed = (sum(getattr(part, key)[name] for part in parts) for key in ("stored_wide", "computed_wide"))
        if (
            not stored and computed > sum(part.count for part in parts) / 2
        ):  # else few bits suffice, for whole numbers say
            yield name, 2 * UNIT[NAMES[name]], "float32"
    if gap >= LEAST * terms:
        yield "TF32", 2 * TF32, "float32"


def _joined(parts: list[_Sums], key: str) -> Float:
    return np.concatenate([getattr(part, key) for part in parts])


def _sum_up(activations: Activations, neurons: slice) -> _Sums:
    tokens, backend, memory = activations.tokens, activations.backend, activations.memory
    half = activations.within(memory // 2)
    stored, computed = Outputs(half), Outputs(half.alone())
    dtype, zeros = computed.dtype, np.zeros(neurons.stop - neurons.start)
    found = _Sums(zeros, zeros, zeros, zeros, dict.fromkeys(WIDENED, 0), dict.fromkeys(WIDENED, 0))
    weights, largest = _scaled(computed.weights_of(neurons))
    weights = backend.asarray(weights, dtype)
    rows = max(1, min(2**14, memory // 32 // (8 * (len(zeros) + activations.input.columns))))
    outputs = zip(stored.batches(neurons, rows), computed.batches(neurons, rows), strict=True)
    for first in range(0, activations.input.rows, rows):
        part = slice(first, min(activations.input.rows, first + rows))
        if not tokens.keep[part].any():
            continue
        y, other = next(outputs)
        squares, scale = _scaled(activations.read_input(part, dtype))
        labels = backend.asarray(np.zeros(len(squares), np.int64), "int64")
        sums = backend.to_numpy(backend.routed_linear(backend.asarray(squares, dtype), weights, None, labels))
        with np.errstate(over="ignore", invalid="ignore"):
            terms = np.sqrt(sums.sum(axis=0, dtype=np.float64)) * largest * scale
            gap = y.astype(np.float64) - other
            found.gap, found.output = np.hypot(found.gap, norms(gap, axis=0)), np.hypot(found.output, norms(y, axis=0))
            found.shift = found.shift + gap.sum(axis=0)
            found.terms = np.hypot(found.terms, terms)
        found.count += y.size
        for name in WIDENED:
            found.stored_wide[name] += _wider(y, name)
            found.computed_wide[name] += _wider(other, name)
    return found


def _scaled(values: NDArray) -> tuple[NDArray, float]:
    """Return squares of at most 1, and the root of their unit."""
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    return np.square(values / largest), largest


def _wider(values: NDArray, name: str) -> int:
    """Count the values, float32 or float64, that a narrower dtype does not hold."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
        held = values == narrow
        if name == "bfloat16":
            held &= (narrow.view(np.uint32) & 0xFFFF) == 0
        elif name == "float16":
            held &= narrow.astype(np.float16) == narrow
    return int(np.count_nonzero(~held))
