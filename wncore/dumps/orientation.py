"""Weights that lie the other way, (inputs, outputs), as in GPT-2's Conv1D: found by their shape, or by the outputs."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wncore.dumps.axes import several
from wncore.dumps.header import DTYPES
from wncore.dumps.layer import Layer, Tokens
from wncore.dumps.tensor import UNIT, as_floats
from wncore.errors import DumpError
from wncore.matrix import LinearLayer
from wncore.normal import Float
from wncore.norms import norms

FEW = 16
"""Tokens by which a square weight is judged."""
QUARTER = 1 / 4
CHANCE = 2.0**-32
"""That a right weight is taken for a transposed one."""
CONV1D = ("c_attn", "c_fc", "c_proj", "q_attn")
"""What GPT-2 calls its Conv1D modules."""
TRANSPOSED = "the weight is transposed, (inputs, outputs) as in GPT-2's Conv1D: store weight.T"


def transposed_shape(layer: Layer) -> bool:
    """Whether a weight fits the other tensors of its layer, but only when it is transposed."""
    x, y, w, b, h = layer.input, layer.output, layer.weight, layer.bias, layer.gram
    if w is None:
        return False
    inputs = x.columns if x is not None else h.columns if h is not None else None
    outputs = y.columns if y is not None else b.rows if b is not None else None

    def fits(neurons: int, channels: int) -> bool:
        return inputs in (None, channels) and outputs in (None, neurons)

    return fits(w.columns, w.rows) and not fits(w.rows, w.columns)


def check_orientation(layer: LinearLayer, tokens: Tokens) -> None:
    """Demand that a square weight does not lie the other way.

    Raises
    ------
    DumpError
        If the stored outputs tell that it does.
    """
    if transposed_values(layer, tokens):
        raise transposition(layer)


def transposition(layer: LinearLayer) -> DumpError:
    """Return what is said of a square weight that lies the other way."""
    assert layer.weight is not None
    return DumpError(f"{layer.name}: output is not input x {layer.weight.name}, it fits if {TRANSPOSED}")


def transposed_values(layer: LinearLayer, tokens: Tokens) -> bool:
    """Whether stored outputs are those of x W, and not of x W', for a square weight W: a few tokens tell.

    A weight in memory is no case for here, a program put it there.
    """
    x, y, w = layer.input, layer.output, layer.weight
    if x is None or y is None or w is None or w.resident or not x.columns == w.rows == w.columns == y.columns:
        return False
    kept = np.flatnonzero(tokens.keep)
    rows = kept[:: max(1, len(kept) // FEW)][:FEW]
    inputs, outputs = (as_floats(tensor.pick(rows)).astype(np.float64) for tensor in (x, y))
    straight, crossed = outputs.copy(), outputs.copy()
    with np.errstate(over="ignore", invalid="ignore"):  # NaN is reported elsewhere; here it compares as false
        for part in w.chunks(w.columns * 8, 2**25):
            weight = as_floats(w.read(part)).astype(np.float64)
            straight[:, part] -= inputs @ weight.T
            crossed -= inputs[:, part] @ weight
        return _fits_crossed(outputs, straight, crossed, _rounding(outputs, y.dtype))


def _fits_crossed(outputs: Float, straight: Float, crossed: Float, rounding: float) -> bool:
    """Whether x W explains outputs that x W' does not: what they leave of them is `crossed`, and `straight`, (n, m).

    Neither a bias matters, as means are left out, nor a ReLU, as zeros are. What x W' leaves of right outputs, by
    rounding or another activation, knows nothing of x (W' - W), by which the two differ: of k numbers, the chance to
    come within a share s of it is about s^k. So x W must leave a quarter at most; of few numbers, so little that the
    chance is `CHANCE`, and no less than rounding counts, as on a coarse grid many coincide. Where W is near the
    identity, both leave little of the outputs; no more is asked than that x W' leaves more than rounding does.
    """
    told = outputs != 0
    of_outputs, of_straight, of_crossed = (_varying(part, told) for part in (outputs, straight, crossed))
    size, wrong, right = (float(norms(part.ravel(), axis=0)) for part in (of_outputs, of_straight, of_crossed))
    if not wrong > rounding:
        return False
    numbers = int(told.sum() - told.any(axis=0).sum())
    even = 3 / float(np.sum((of_straight / wrong) ** 4))  # `numbers`, if Gaussian; fewer if some outweigh the rest
    share = CHANCE ** (1 / max(1.0, min(numbers, even)))
    if share < QUARTER:
        right = max(right, rounding)
    return right <= min(QUARTER, share) * min(wrong, size)


def _varying(values: Float, told: NDArray[np.bool_]) -> Float:
    """Take from each column its mean; what is not told is left out, and 0."""
    values = np.where(told, values, 0.0)
    return np.where(told, values - values.sum(axis=0) / np.maximum(told.sum(axis=0), 1), 0.0)


def _rounding(outputs: Float, stored: str) -> float:
    """Return the norm that rounding of the outputs has about, by the narrowest dtype that holds them all."""
    held = [stored] if stored.startswith("F8") else ["BF16", "F16", "F32", "F64"]
    name = next((name for name in held if np.array_equal(outputs.astype(DTYPES[name]), outputs)), held[-1])
    return UNIT.get(name, 0.125) * float(norms(outputs.ravel(), axis=0)) / 2


def undecided(layers: Iterable[Layer]) -> list[str]:
    """Point out square weights with a name of GPT-2's, where no output tells which way they lie."""
    found = [
        layer.name
        for layer in layers
        if (w := layer.weight) is not None
        and w.rows == w.columns
        and layer.output is None
        and (layer.input is not None or layer.gram is not None)
        and layer.name.rpartition(".")[2] in CONV1D
    ]
    note = (
        f"{several(found)}: GPT-2 stores square weights of this name as (inputs, outputs), and no output tells which "
        f"way they lie; see that rows are neurons, or add the output"
    )
    return [note] if found else []
