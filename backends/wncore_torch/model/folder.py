"""An open folder: a model whose parameters are on meta, and where each of them comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from wncore_torch.model.headers import Stored
from wncore_torch.model.internals import PreTrainedModel
from wncore_torch.model.names import Source
from wncore_torch.model.ties import Tie

FORWARD = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
"""What a forward may be computed in."""


@dataclass(frozen=True, eq=False)
class Folder:
    """A model whose parameters are on meta until they are wanted, and where each comes from."""

    path: Path
    model: PreTrainedModel
    stored: dict[str, Stored]
    """tensor of the file -> its bytes"""
    sources: dict[str, Source]
    """parameter or persistent buffer -> what makes it; names that are tied have sources of the same tensors"""
    ties: tuple[Tie, ...]
    unused: tuple[str, ...]
    """tensors that nothing takes, such as the masks in GPT-2's files"""
    dtype: torch.dtype
    device: torch.device

    @property
    def computed_in(self) -> str:
        """The dtype of the forward, as `FORWARD` calls it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def limit(self) -> int | None:
        """The longest sequence that the model was made for, as far as its config says."""
        config = self.model.config.get_text_config()
        found = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
        return next((value for value in found if isinstance(value, int) and value > 0), None)

    @property
    def vocabulary(self) -> int:
        """How many tokens the model's embedding knows."""
        return cast(Tensor, self.model.get_input_embeddings().weight).shape[0]


def set_parameter(model: nn.Module, name: str, value: torch.Tensor) -> None:
    """Set a parameter or buffer by its name, by a new object: what was tied in memory no longer is."""
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[leaf] = value
