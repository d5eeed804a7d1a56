"""Parameters in memory while they are wanted: read, converted, put into the module, and sent back to meta."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wncore_torch.model.folder import Folder, set_parameter
from wncore_torch.model.headers import Reader
from wncore_torch.model.names import convert


def names_below(model: nn.Module, path: str) -> list[str]:
    """List the parameters of a module as the model names them, tied ones under each of their names."""
    return [name for name, _ in model.named_parameters(remove_duplicate=False) if name.startswith(path + ".")]


def dtype_of(folder: Folder, name: str) -> torch.dtype:
    """Return the dtype that `from_pretrained(dtype=...)` gives a parameter: some routers stay float32 in bfloat16."""
    plan = folder.model._get_dtype_plan(folder.dtype)
    matching = (dtype for glob, dtype in plan.items() if re.search(glob.replace("*", ".*"), name))
    return next(matching, folder.dtype)


def file_dtype(folder: Folder, name: str) -> torch.dtype:
    """Return the dtype that a parameter has in the file."""
    return folder.stored[folder.sources[name].tensors[0][0]].dtype


def read_parameters(folder: Folder, names: Iterable[str]) -> dict[str, Tensor]:
    """Read parameters to the folder's device, converted and in the dtype of the forward; each source is read once.

    Bytes travel in the file's dtype and are widened on the device.
    """
    wanted = list(names)
    values: dict[str, Tensor] = {}
    with Reader(folder.stored, folder.device) as read:
        for name in wanted:
            if name in values:
                continue
            made = convert(folder.sources[name], read, folder.model)
            for own, value in made.items():
                values[own] = value.to(dtype_of(folder, own)) if value.is_floating_point() else value
            for tie in folder.ties:  # one reading, and one memory, for all names of a tied parameter
                if twin := next((one for one in tie if one in made), None):
                    values |= dict.fromkeys(tie, values[twin])
    return {name: values[name] for name in wanted}


def read_stored(folder: Folder, name: str) -> Tensor:
    """Read one parameter to the folder's device, converted, in the dtype that it has in the file."""
    with Reader(folder.stored, folder.device) as read:
        return convert(folder.sources[name], read, folder.model)[name]


@contextmanager
def loaded(folder: Folder, names: Iterable[str], values: dict[str, Tensor] | None = None) -> Iterator[None]:
    """Have these parameters in memory within the `with`, and on meta after it, however it ends.

    `values` are theirs, if they were read beforehand; the dict is emptied.
    """
    wanted = list(names)
    values = read_parameters(folder, wanted) if values is None else values
    try:
        for name in wanted:
            set_parameter(folder.model, name, values.pop(name))
        yield
    finally:
        for name in wanted:
            set_parameter(folder.model, name, torch.empty_like(folder.model.get_parameter(name), device="meta"))


@contextmanager
def reading_ahead(folder: Folder, groups: Sequence[Sequence[str]]) -> Iterator[Callable[[int], dict[str, Tensor]]]:
    """Yield what gives the parameters of one group after the other; on a GPU the next ones are read meanwhile.

    On the host reading ahead would hold two groups in its memory, and gain nothing.
    """
    if folder.device.type != "cuda":
        yield lambda index: read_parameters(folder, groups[index])
        return
    stream, futures = torch.cuda.Stream(folder.device), dict[int, Future[dict[str, Tensor]]]()

    def read(index: int) -> dict[str, Tensor]:
        with torch.cuda.stream(stream):
            values = read_parameters(folder, groups[index])
        stream.synchronize()
        return values

    with ThreadPoolExecutor(1, "wncore-read") as pool:

        def give(index: int) -> dict[str, Tensor]:
            values = (futures.pop(index, None) or pool.submit(read, index)).result()
            if index + 1 < len(groups):
                futures[index + 1] = pool.submit(read, index + 1)
            for value in values.values():  # made in the other stream, and freed when this one no longer needs it
                value.record_stream(torch.cuda.current_stream(folder.device))
            return values

        yield give
