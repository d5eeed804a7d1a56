"""Which tensors of the file make which parameters of the module, and the way back.

The two have different names (Pythia's `embed_out` is `lm_head`, GPT-2's files lack `transformer.`), and there are not
even as many (each expert of Mixtral is three tensors; the module has two parameters for all experts of a block). Names
are mapped by transformers' own renaming and converters. Converters also run on meta, so that every shape is proved
before a weight is read.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from wncore.errors import InputError
from wncore_torch.model.headers import Stored
from wncore_torch.model.internals import (
    PreTrainedModel,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    get_model_conversion_mapping,
    rename_source_key,
)


@dataclass(frozen=True, eq=False)
class Source:
    """Which tensors make which parameters: one makes one, or a converter makes them of many."""

    parameters: tuple[str, ...]
    tensors: tuple[tuple[str, str | None], ...]
    """Each with the converter's pattern that it matched, in the order in which the converter wants them."""
    key: str
    """The parameter that the converter is keyed by; without a converter, the one."""
    converter: WeightConverter | None


def map_names(model: PreTrainedModel, stored: Mapping[str, Stored]) -> tuple[dict[str, Source], list[str]]:
    """Map parameters and persistent buffers to tensors as `from_pretrained` does: -> sources, tensors without use.

    The steps are those of `convert_and_load_state_dict_in_model`, no part of which stops before it loads.

    Raises
    ------
    InputError
        If a tensor has another shape than its parameter, or two claim one parameter.
    """
    wanted = model.state_dict()  # under every tied name
    renamings, converters = _transforms(model)
    by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    taken: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    unused: list[str] = []
    for name in sorted(stored, key=dot_natural_key):  # experts are stacked in the order of arrival: 2 before 10
        key, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, wanted)
        if key not in wanted and name in wanted:  # the file has the module's own names already
            key, pattern = name, None
        if key in wanted:
            taken[key].append((name, pattern))
        else:
            unused.append(name)
    sources: dict[str, Source] = {}
    for key, tensors in taken.items():
        converter = by_pattern.get(tensors[0][1]) if tensors[0][1] is not None else None
        if converter is None and len(tensors) > 1:
            names = ", ".join(name for name, _ in tensors[:3])
            raise InputError(f"{key} would come from {names} at once; use a folder that has one of them")
        draft = Source((), tuple(tensors), key, converter)
        shapes = _prove(draft, model, stored, wanted)
        if twice := shapes.keys() & sources.keys():
            first = sources[min(twice)].tensors[0][0]
            raise InputError(f"{min(twice)} would come from {tensors[0][0]} and from {first}; use a folder with one")
        sources |= dict.fromkeys(shapes, Source(tuple(shapes), tuple(tensors), key, converter))
    return sources, unused


def _prove(
    draft: Source, model: PreTrainedModel, stored: Mapping[str, Stored], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Convert on meta, and demand that parameters of these shapes are wanted."""
    first = draft.tensors[0][0]
    try:
        made = convert(draft, lambda name: torch.empty(stored[name].shape, device="meta"), model)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InputError(
            f"{first} and the {len(draft.tensors) - 1} tensors beside it do not make {draft.key}: {error}; config.json "
            f"and the file are of different models"
        ) from error
    for name, value in made.items():
        if name not in wanted:
            raise InputError(f"{first} would make {name}, which {type(model).__name__} lacks; use another folder")
        if value.shape != wanted[name].shape:
            raise InputError(
                f"{name} is {tuple(wanted[name].shape)} by config.json and {tuple(value.shape)} in the file ({first}); "
                f"they are of different models"
            )
    return made


def convert(source: Source, read: Callable[[str], Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """Make a source's parameters of its tensors, which `read(name)` gives on any device, meta included."""
    if source.converter is None:
        return {source.key: read(source.tensors[0][0])}
    converter = deepcopy(source.converter)  # it collects what it is given
    for name, pattern in source.tensors:
        converter.add_tensor(source.key, name, cast(str, pattern), cast(Future, partial(read, name)))
    return _single(converter.convert(source.key, model=model, config=model.config))


def unconvert(model: PreTrainedModel, source: Source, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn all parameters of one source back into the tensors of the file, `convert` undone.

    Raises
    ------
    KeyError
        If `values` lacks one of the source's parameters.
    """
    if source.converter is None:
        return {source.tensors[0][0]: values[source.key]}
    reverse, key = cast(WeightConverter, source.converter.reverse_transform()), ""
    for name in source.parameters:
        key, pattern = reverse.rename_source_key(name)
        reverse.add_tensor(key, name, cast(str, pattern), cast(Future, values[name]))
    renamings, _ = _transforms(model)
    original: dict[str, str] = {}
    for name, _ in source.tensors:
        renamed = name
        for renaming in renamings:
            renamed, _ = renaming.rename_source_key(renamed)
        original[renamed] = name
    made = _single(reverse.convert(key, model=model, config=model.config))
    return {original[name]: value for name, value in made.items()}


def _transforms(model: PreTrainedModel) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    mapping = get_model_conversion_mapping(model)
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    return renamings, [one for one in mapping if isinstance(one, WeightConverter)]


def _single(made: Mapping[str, Tensor | list[Tensor]]) -> dict[str, Tensor]:
    """A converter gives a tensor, or a list of one."""
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}
