"""Weights that lie the other way, (inputs, outputs), as in GPT-2's Conv1D: found by their shape, or by the outputs."""

from collections.abc import Iterable

import numpy as np

from wncore.dumps.axes import several
from wncore.dumps.layer import Layer, Tokens
from wncore.dumps.tensor import as_floats
from wncore.errors import DumpError
from wncore.matrix import LinearLayer

FEW = 16
"""Tokens by which a square weight is judged."""
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
        assert layer.weight is not None
        raise DumpError(f"{layer.name}: output is not input x {layer.weight.name}, it fits if {TRANSPOSED}")


def transposed_values(layer: LinearLayer, tokens: Tokens) -> bool:
    """Whether stored outputs are those of x W, and not of x W', for a square weight W; a bias does not matter.

    Of a few tokens, less their mean: the transposed weight must explain the outputs, to a quarter of their deviation,
    and four times better than the weight as it lies, which must be wrong by more than rounding of any dtype. A weight
    that neither way explains them is no case for here, nor is one in memory, which a program put there.
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
        size, wrong, right = (float(np.linalg.norm(each - each.mean(axis=0))) for each in (outputs, straight, crossed))
    return wrong > size / 16 and 4 * right <= min(wrong, size)


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
