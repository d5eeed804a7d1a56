"""Tensors that ride along with others, known by their names: parts of quantised weights, masks, parameters.

None of them is a layer, whatever its shape. Names are those of compressed-tensors, vLLM and transformers
(weight_scale, weight_scale_inv, weight_packed, input_scale), GPTQ and AWQ (qweight, qzeros, scales, g_idx),
bitsandbytes (SCB, weight.absmax, weight.quant_map), AQLM (codes, codebooks), HQQ (W_q), quanto (weight._data),
ComfyUI (scale_weight) and torch (weight_orig, weight_v, in_proj_weight).
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

Role = Literal["scale", "holder", "other", "input", "output", "none"]
"""Of a rider: the weight's scale; it holds the weight in another form; the weight takes it to be known; the scale of a
stored input or output; of no concern to a linear map: the scale by which a runtime rounds activations, say."""

NAMES: dict[Role, str] = {
    "scale": "weight_scale weight_scale_inv weight_scales scale_weight qscale_weight scale scales",
    "holder": "qweight weight_packed weight_qdata weight._data W_q Qidxs q_weight codes weight_orig weight_v",
    "other": "weight_scale_2 weight_global_scale weight_zero_point weight_zero_points weight_zeros weight_shape "
    "weight_g_idx weight_format weight_scalar weight_offset weight_bitmask weight_g weight_mask weight._scale "
    "weight._shift weight.absmax weight.quant_map weight.nested_absmax weight.nested_quant_map weight.quant_state "
    "weight.scale weight.zero_point qzeros g_idx SCB SCBt pre_quant_scale codebook codebooks scale_inv scales_inv "
    "global_scale zero zeros zero_point zero_points lookup_table centroids oweight",
    "input": "input_scale input_scales scale_input",
    "output": "output_scale output_scales scale_output",
    "none": "input_zero_point output_zero_point input_global_scale output_global_scale input_amax weight_amax "
    "output_amax q_scale k_scale v_scale k_zero_point v_zero_point prob_scale qscale_act act_scale activation_scale "
    "comfy_quant",
}
ROLES: dict[str, Role] = {name: role for role, names in NAMES.items() for name in names.split()}
LOOSE = {"scale", "scales", "scale_inv", "scales_inv", "global_scale", "zero", "zeros", "zero_point", "zero_points",
         "codes", "lookup_table", "centroids", "oweight"}  # fmt: skip
"""Names that others use as well; they count beside another part of the weight, or of its layer."""
BESIDE = ("weight", "input", "inputs", "output", "outputs", "qweight", "qzeros", "weight_packed", "W_q")
CODED = {"codes", "lookup_table", "centroids", "oweight"}
CODES = ("codebooks", "codebook", "scales", "qweight")
TAILS = ("_scale", "_scales", "_scale_inv", "_scales_inv", "_zero_point", "_zeros")
"""Behind the name of any other tensor of the dump: down_proj_scales_inv beside down_proj."""
PARAMETERS = {"gamma", "beta", "running_mean", "running_var"}


@dataclass(frozen=True)
class Rider:
    """What a tensor is to a layer."""

    layer: str
    role: Role
    loose: bool = False
    """Its name alone does not say so."""


def rider(name: str, names: Container[str]) -> Rider | None:
    """Say what a tensor rides along with, given the names of all; None if it stands for itself.

    >>> rider("up.weight_scale_inv", {}), rider("up.scales", {}), rider("up.scales", {"up.qweight"})
    (Rider(layer='up', role='scale', loose=False), None, Rider(layer='up', role='scale', loose=True))
    """
    owner, _, suffix = name.rpartition(".")
    if owner.rpartition(".")[2] == "weight":  # a part called weight.absmax is of the layer above
        above = owner.rpartition(".")[0]
        known = ROLES.get(f"weight.{suffix.partition('.')[0]}")
        return Rider(above, known) if known else None
    role = ROLES.get(suffix)
    if role and suffix not in LOOSE:
        return Rider(owner, role)
    if role and any(_beside(name, suffix, part) in names for part in (CODES if suffix in CODED else BESIDE)):
        return Rider(owner, role, loose=True)
    for tail in TAILS:
        base = name.removesuffix(tail)
        if base != name and base in names:
            return Rider(base, "output", loose=True)
    return None


def _beside(name: str, suffix: str, part: str) -> str:
    return name.removesuffix(suffix) + part


def passed_over(name: str) -> str | None:
    """Say why a tensor that rides along with no weight is no layer either; None if it may be one."""
    suffix = name.rpartition(".")[2]
    if suffix in PARAMETERS or suffix.startswith(("weight_", "bias_")) or suffix.endswith(("_weight", "_bias")):
        return f"a tensor of that name is a parameter; if it is the output of a layer, call it {name[:80]}.output"
    if suffix.lower().endswith("mask"):
        return "the mask that leaves padding out is called tokens.mask, BOOL or U8, 1 where a token counts"
    return None
