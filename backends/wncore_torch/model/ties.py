"""Parameters that are one: by the model's code, unless the bytes of the file say otherwise; or by their bytes alone.

A flag in config.json proves nothing: files with both names and other bytes load as two parameters, whatever it says.
"""

from collections import defaultdict
from collections.abc import Mapping

from wncore_torch.model.headers import Stored, same_bytes
from wncore_torch.model.internals import PreTrainedModel
from wncore_torch.model.names import Source

Tie = tuple[str, ...]


def find_ties(
    model: PreTrainedModel, stored: dict[str, Stored], sources: Mapping[str, Source]
) -> tuple[list[Tie], list[Tie], dict[str, Source]]:
    """Find the parameters that are one, those that no longer are, and the sources of names that the file leaves out.

    The last are of names whose twins alone are in the file, such as the lm_head of a tied model.
    """
    shared: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared[id(parameter)].append(name)
    candidates = [tuple(names) for names in shared.values() if len(names) > 1]
    candidates += _head_and_embedding(model, sources)
    ties: list[Tie] = []
    untied: list[Tie] = []
    added: dict[str, Source] = {}
    for names in candidates:
        there = [name for name in names if name in sources]
        if not there:
            continue  # they are missing, which is said where everything missing is
        plain = [sources[name].tensors[0][0] for name in there if sources[name].converter is None]
        if len(there) > 1 and (len(plain) < len(there) or not same_bytes(stored, plain)):
            untied.append(names)
            continue
        ties.append(names)
        added |= {name: sources[there[0]] for name in names if name not in sources}
    return ties, untied, added


def _head_and_embedding(model: PreTrainedModel, sources: Mapping[str, Source]) -> list[Tie]:
    """Name embedding and lm_head where the model has two parameters, which may be one by the bytes of the file."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embedding is None or head.weight is embedding.weight:
        return []
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    pair = names[id(embedding.weight)], names[id(head.weight)]
    return [pair] if all(name in sources for name in pair) else []
