"""Files with a number for each neuron: `{layer}.wasserstein`, say, as ``wncore score -o scores.safetensors`` writes."""

from pathlib import Path

import numpy as np

from wncore.dumps.header import read_header
from wncore.dumps.layer import as_column
from wncore.dumps.tensor import Tensor
from wncore.errors import DumpError
from wncore.normal import Float


def read_column(path: Path, layer: str, column: str, neurons: int) -> Float:
    """Read one column of one layer: (m,).

    Raises
    ------
    DumpError
        If the file is damaged, or lacks the column, or it is not of floats, one for each neuron.
    NonFiniteError
        If it holds NaN or infinity.
    """
    name = f"{layer}.{column}"
    header = read_header(path)
    entry = header.tensors.get(name)
    if entry is None:
        raise DumpError(f"{path} lacks {name}; it holds {', '.join(sorted(header.tensors)[:4]) or 'nothing'}")
    if not entry.floating or entry.shape != (neurons,):
        raise DumpError(f"{name} in {path} is {entry.dtype} {entry.shape}; {neurons} floats are needed, one a neuron")
    tensor = Tensor(column, (as_column(header, entry),))
    values = tensor.read()
    tensor.check_finite(values)
    return values[:, 0].astype(np.float64)
