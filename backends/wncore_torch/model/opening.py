"""Opening a Hugging Face folder without loading it: parameters on meta, buffers real, each traced to its bytes.

Never pickle, never remote code, never the network. What is missing, is of another shape, or is quantised is refused
here, by name, before a weight is read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from wncore.errors import InputError
from wncore_torch.model.folder import FORWARD, Folder, set_parameter
from wncore_torch.model.headers import read_headers
from wncore_torch.model.internals import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from wncore_torch.model.names import map_names
from wncore_torch.model.parameters import read_parameters
from wncore_torch.model.ties import find_ties


def open_folder(path: str | Path, dtype: str = "float32", device: str | torch.device = "cpu", **options: Any) -> Folder:
    """Open a folder; `dtype` is that of the forward, `options` go to the model's config (`attn_implementation`).

    Persistent buffers are read, parameters are not.

    Raises
    ------
    InputError
        If it is no folder of a causal language model in safetensors, or is quantised, or a parameter is missing or of
        another shape, or the dtype is none of `FORWARD`.
    DumpError
        If one of its files is damaged.
    """
    path = Path(path)
    if dtype not in FORWARD:
        raise InputError(f"a forward is computed in {', '.join(FORWARD)}; got {dtype!r}, name one with --dtype")
    config = read_config(path)
    stored = read_headers(path)
    model = _build_on_meta(config, FORWARD[dtype], **options)
    sources, unused = map_names(model, stored)
    ties, untied, added = find_ties(model, stored, sources)
    sources |= added
    for name in (name for names in untied for name in names):
        set_parameter(model, name, torch.empty_like(model.get_parameter(name)))  # one for each: no longer the same
    wanted = model.state_dict()
    if missing := [name for name in wanted if name not in sources]:
        rest = f"; its unused tensors are {', '.join(unused[:3])}" if unused else ""
        raise InputError(
            f"{path} has no tensor for {', '.join(missing[:3])} ({len(missing)} in all){rest}; config.json and the "
            f"files are of different models, or a download is incomplete"
        )
    for owner in model.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            owner._buffers[name] = buffer.to(device)
    folder = Folder(path, model, stored, sources, tuple(ties), tuple(unused), FORWARD[dtype], torch.device(device))
    _fill_buffers(folder)
    return folder


def read_config(path: Path) -> PreTrainedConfig:
    """Read config.json; no weight, and no code of the folder's.

    Raises
    ------
    InputError
        If there is none, transformers does not know the model, or it is quantised.
    """
    if not (path / "config.json").is_file():
        what = "is no folder" if not path.is_dir() else "has no config.json"
        raise InputError(f"{path} {what}; give the folder of a Hugging Face model, downloaded beforehand")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path / 'config.json'} is of no model that the installed transformers knows: {reason}; code of a "
            f"folder's own is never run"
        ) from error
    if (how := getattr(config, "quantization_config", None)) is not None:
        method = how.get("quant_method") if isinstance(how, dict) else getattr(how, "quant_method", None)
        raise InputError(
            f"{path} is quantised ({method or 'quantization_config in config.json'}): its tensors are no weights; use "
            f"the original model"
        )
    return config


def _build_on_meta(config: PreTrainedConfig, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """Build the model with every parameter on meta and every buffer as computed (rotary frequencies)."""
    config.use_cache = False
    try:
        with _parameters_on_meta():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, experts_implementation="eager", **options)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise InputError(f"{config.model_type} is no causal language model of transformers; use one that is") from error
    return model.eval()  # no dropout, no layerdrop


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move each parameter to meta as it is made, by PyTorch's own hook.

    `torch.device("meta")` would take buffers along, and what is not in the file is lost: it becomes finite garbage.
    """

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:  # one that is there already is being tied: it stays itself
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=False)

    hook = register_module_parameter_registration_hook(cast(Callable[..., None], to_meta))
    try:
        yield
    finally:
        hook.remove()


def _fill_buffers(folder: Folder) -> None:
    """Read the buffers that are in the file: weights in all but name (DeepSeek's `e_score_correction_bias`)."""
    buffers = {name for name, _ in folder.model.named_buffers()} & folder.model.state_dict().keys()
    for name, value in read_parameters(folder, sorted(buffers)).items():
        set_parameter(folder.model, name, value)
