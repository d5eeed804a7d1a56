"""Is a dump what it says? Recompute outputs from inputs and weights, and look for outputs after an activation.

And what does a file of experts hold?
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from wncore.agreement import explain
from wncore.backend import Backend
from wncore.dumps.header import DTYPES
from wncore.dumps.layer import Layer, Tokens
from wncore.dumps.orientation import transposed_values, transposition
from wncore.dumps.tensor import CHUNK, UNIT
from wncore.errors import TooFewTokensError
from wncore.experts.files import ExpertFile
from wncore.experts.packing import has_bits
from wncore.failures import Fail, attempt
from wncore.layers.activations import open_layer
from wncore.norms import norms
from wncore.outputs import Outputs

LOWEST_ACTIVATION = -0.2785
"""The least value of SiLU (at -1.278); GELU's is -0.17, those of ReLU, sigmoid and softplus are 0."""


@dataclass(frozen=True)
class Inspection:
    """What was found in a layer's tensors; a figure is None where the layer lacks what it takes."""

    name: str
    tokens: int
    padding: int
    disagreement: float | None
    """Largest ||y - (W x + b)|| / ||y|| of any neuron."""
    worst_neuron: int | None
    tolerance: float | None
    """What rounding explains: 16 units of the coarsest dtype involved."""
    zeros: float | None
    """Share of the outputs that are exactly zero."""
    lowest: float | None
    highest: float | None
    rounding: str | None = None
    """What explains a disagreement beyond the tolerance: "bfloat16", "TF32", ... (`wncore.agreement`)."""

    @property
    def agreement(self) -> str | None:
        """Say how well output and input x weight agree; None if they do not, or cannot be compared."""
        if self.disagreement is None or self.transposed:
            return None
        if not (self.rounding or self.disagreement <= (self.tolerance or 0)):
            return None
        if self.rounding == "TF32":
            return (
                f"output and input x weight differ by {self.disagreement:.1g}, as products in TF32 do, whose factors "
                f"have 11 bits; for float32 switch TF32 off where the dump is captured"
            )
        why = f", as rounding to {self.rounding} explains, which the bits of the output show; it was widened afterwards"
        if self.rounding in (None, "cancellation"):
            why = ", as far as rounding lets it: its terms nearly cancel" if self.rounding else ""
        return f"output agrees with input x weight to {self.disagreement:.1g}{why}"

    transposed: bool = False
    """Whether the outputs are those of a square weight the other way round, which nothing can be computed from."""
    idle: str | None = None
    """Why there is nothing to compute: the layer is empty, or fewer than 2 tokens count."""

    @property
    def warnings(self) -> list[str]:
        """Say what is wrong, one sentence each."""
        found = [self.idle] if self.idle else []
        if self.disagreement is not None and self.agreement is None and not self.transposed:
            found.append(
                f"output and input x weight disagree: neuron {self.worst_neuron} by {self.disagreement:.2g} of its "
                f"norm, and rounding explains {self.tolerance:.1g}; they are of different runs, or a bias is missing"
            )
        if self.zeros is not None and self.lowest is not None and self.highest is not None:
            bounded = self.lowest >= LOWEST_ACTIVATION and self.highest > 4 * abs(self.lowest)
            if self.zeros >= 0.5:
                found.append(
                    f"{self.zeros:.0%} of the output is zero: it looks like the output after an activation; "
                    f"scores are meant for pre-activations"
                )
            elif bounded:
                found.append(
                    f"no output is below {self.lowest:.3g} while some reach {self.highest:.3g}: it looks like the "
                    f"output after an activation; scores are meant for pre-activations"
                )
        return found


def survey_layer(layer: Layer, backend: Backend, memory: int, fail: Fail) -> Inspection:
    """Inspect a layer, whatever is wrong with it; `fail` is told if nothing can be computed from it."""
    found = Inspection(layer.name, layer.rows, 0, None, None, None, None, None, None)
    with attempt(layer.name, fail):
        try:
            layer.check()
            found = inspect_layer(layer, backend, memory)
        except TooFewTokensError as error:
            kept = layer.rows if layer.mask is None or layer.empty else int(np.count_nonzero(layer.mask.read()))
            return replace(found, tokens=kept, padding=layer.rows - kept, idle=str(error))
        if found.transposed:
            raise transposition(layer)
    return found


def inspect_layer(layer: Layer, backend: Backend, memory: int = 2**30) -> Inspection:
    """Read a layer's tensors once and compare them.

    Raises
    ------
    WncoreError
        If a tensor holds NaN or infinity, or too few tokens count.
    """
    opened = open_layer(layer, backend, memory=memory // 2)
    tokens = opened.tokens
    padding = layer.rows - tokens.count
    if layer.output is None:
        if layer.scorable or layer.prunable:
            _check_finite(layer, tokens)
        return Inspection(layer.name, tokens.count, padding, None, None, None, None, None, None)
    stored = Outputs(opened)
    compare = layer.input is not None and layer.weight is not None
    computed = Outputs(opened.alone()) if compare else None
    m = layer.neurons
    zeros, lowest, highest, gap, norm = 0, np.inf, -np.inf, np.zeros(m), np.zeros(m)
    rows = max(1, min(2**14, memory // 32 // (8 * m)))
    whole = slice(0, m)
    other = computed.batches(whole, rows) if computed else None
    for y in stored.batches(whole, rows):
        zeros += int(np.count_nonzero(y == 0))
        lowest, highest = min(lowest, float(y.min())), max(highest, float(y.max()))
        if other is not None:
            with np.errstate(over="ignore"):
                gap = np.hypot(gap, norms(y - next(other).astype(np.float64), axis=0))
            norm = np.hypot(norm, norms(y, axis=0))
    share = zeros / (tokens.count * m)
    if computed is None:
        return Inspection(layer.name, tokens.count, padding, None, None, None, share, lowest, highest)
    relative = np.where(gap > 0, gap, 0.0) / np.where(norm > 0, norm, 1.0)
    relative = np.where((norm == 0) & (gap > 0) | np.isnan(gap), np.inf, relative)
    worst = int(np.argmax(relative))
    parts = [part.dtype for part in (layer.input, layer.weight, layer.bias, layer.output) if part is not None]
    tolerance = 16 * max(UNIT.get(dtype, 0.125) for dtype in parts)  # float8: one part in eight
    rounding = None
    if not relative[worst] <= tolerance:
        rounding, explained = explain(opened.within(memory))
        worst = worst if rounding else int(np.argmax(np.where(explained, -1.0, relative)))
    disagreement, crossed = float(relative[worst]), transposed_values(layer, tokens)
    return Inspection(
        layer.name, tokens.count, padding, disagreement, worst, tolerance, share, lowest, highest, rounding, crossed
    )


def _check_finite(layer: Layer, tokens: Tokens) -> None:
    """Read what is computed from; of the input, the tokens that count."""
    gram = layer.gram if layer.input is None else None
    for tensor in filter(None, (layer.input, layer.weight, layer.bias, gram)):
        for rows in tensor.chunks(tensor.columns * tensor.itemsize, CHUNK):
            part = tensor.read(rows)
            if tensor is layer.input:
                tensor.check_finite(part[tokens.keep[rows]], tokens.keep)
            else:
                tensor.check_finite(part)


@dataclass(frozen=True)
class ExpertInspection:
    """What a file holds of one layer's experts."""

    name: str
    shape: tuple[int, int]
    """(m, d)"""
    experts: int
    router: str
    """The layer whose router it uses."""
    dtype: str
    tokens: int
    """Calibration tokens of all experts."""
    zeros: float
    """Share of all weights."""
    dense_bytes: int
    """Of the weights, stored with their zeros"""
    packed_bytes: int
    """Of bit mask and values"""


def inspect_experts(file: ExpertFile) -> Iterator[ExpertInspection]:
    """Read all tensors of a file once.

    Raises
    ------
    WncoreError
        If a number is NaN or infinite, or mask and values disagree.
    """
    for name, layer in file.layers.described.items():
        (m, d), dtype, kept, zeros = layer.shape, file.layers.dtype(layer), 0, 0
        file.layers.bias(layer)  # is it finite?
        for weight in file.layers.experts(layer):
            kept += int(np.count_nonzero(has_bits(weight)))
            zeros += int(np.count_nonzero(weight == 0))
        size, count = DTYPES[dtype].itemsize, layer.experts * m * d
        tokens = int(file.layers.router(layer)[1].sum())
        packed = layer.experts * m * -(-d // 8) + kept * size
        yield ExpertInspection(
            name, layer.shape, layer.experts, layer.router, dtype, tokens, zeros / count, count * size, packed
        )
