"""The dump: activations and weights of linear layers in safetensors files, schema 1 (docs/dump-format.md).

Read with `open_dump`, write with `write_dump`. Reading is lazy: a tensor's rows or columns are read when asked for.
"""

from wncore.dumps.dump import Dump, open_dump
from wncore.dumps.layer import Layer, Tokens
from wncore.dumps.write import write_dump, write_tensors

__all__ = ["Dump", "Layer", "Tokens", "open_dump", "write_dump", "write_tensors"]
