"""`capture`: what the layers of a model read and give on a text, and their weights, as a dump of one file a block.

The folder appears whole: it is written under another name beside its place, flushed and renamed.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wncore.dumps.stream import streamed_tensors
from wncore.errors import InputError, OutputExistsError, WncoreError, WriteError
from wncore.failures import Fail, forgive
from wncore.files import flush_folder
from wncore.tick import Tick, idle
from wncore_torch.model.held import Collected, holders
from wncore_torch.model.linears import Linear
from wncore_torch.model.stream import Block, Read
from wncore_torch.model.written import OnDisk, count_rows, layout, size_of, stored_as, write_weights

if TYPE_CHECKING:
    from wncore_torch.model.source import ModelSource

INDEX = "dump.safetensors.index.json"
PARTS = ("input", "output", "weight")


@dataclass(frozen=True)
class Captured:
    """What was written."""

    files: list[Path]
    bytes: int
    layers: list[str]


def check_folder(path: Path, needed: int) -> None:
    """Raise before the work what `capture` would raise after it.

    Raises
    ------
    OutputExistsError
        If there is something of that name.
    InputError
        If the folder that it is to be in is missing.
    WriteError
        If the disk has less room than `needed` bytes.
    """
    if path.exists() or path.is_symlink():
        raise OutputExistsError(f"{path} exists already; choose another name, or remove it")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} into; make it first")
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise WriteError(
            f"{path} would take {needed / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free there; capture fewer "
            f"layers (--layer), fewer --windows or only --part input"
        )


def capture(
    source: "ModelSource",
    chosen: Collection[str],
    output: Path,
    *,
    parts: Collection[str] = PARTS,
    tick: Tick = idle,
    named: Callable[[str], object] = lambda _: None,
    starved: Fail = forgive,
) -> Captured:
    """Write a dump of schema 1; `tick` is told of rows of a layer, `named` of the block that runs.

    Raises
    ------
    WncoreError
        As `check_folder`, and if writing fails; then there is no folder.
    """
    check_folder(output, 0)
    layers = [layer for layer in source.linears.layers if layer.name in chosen]
    metadata = _metadata(source, layers)
    where: dict[str, str] = {}
    total = 0
    with _appearing(output) as folder:
        stream, starts = source.start()
        count = len(stream)
        for block in stream.blocks():
            own = [layer for layer in block.layers if layer.name in chosen]
            if not own:
                continue
            named(block.name)
            name = f"dump-{block.index + 1:05d}-of-{count:05d}.safetensors"
            shapes = _write_block(source, block, own, folder / name, parts, metadata, starts, tick)
            where |= dict.fromkeys(shapes, name)
            total += size_of(shapes)
            for layer in own:
                if f"{layer.name}.weight" not in shapes and "weight" in parts:
                    starved(layer.name, InputError(f"{layer.name} reads no token"))
        content = {"metadata": {**metadata, "total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n")
    files = [output / name for name in [*dict.fromkeys(where.values()), INDEX]]
    return Captured(files, total, [layer.name for layer in layers])


def _write_block(
    source: "ModelSource",
    block: Block,
    layers: list[Linear],
    path: Path,
    parts: Collection[str],
    metadata: dict[str, str],
    starts: list[int],
    tick: Tick,
) -> dict:
    counts = count_rows(block, layers)
    windows = (len(source.windows), source.windows.shape[1])
    shapes = dict(layout(layers, parts, windows, stored_as(source.folder.dtype), counts))
    if not shapes:
        block.hand_on()
        return {}
    with streamed_tensors(path, shapes, metadata) as writer:
        collected = Collected(layers, parts, starts, OnDisk(writer, counts, starts, windows[1]))

        def meet(read: Read) -> None:
            collected.take(read)
            tick(len(read.x))

        block.hand_on(meet, {layer.name for layer in layers})
        write_weights(writer, block, layers, shapes)
    return shapes


def _metadata(source: "ModelSource", layers: list[Linear]) -> dict[str, str]:
    shared = {name: holder for name, holder in holders(layers).items() if name != holder}
    described = source.described([layer.name for layer in layers])
    kept = ("windows", "length", "dtype", "batch")
    return {
        "wncore.schema": "1",
        "wncore.model": source.folder.path.name,
        "wncore.text": source.text.name,
        "wncore.shared_inputs": json.dumps(shared),
        "wncore.capture": json.dumps({name: described[name] for name in kept}),
    }


@contextmanager
def _appearing(path: Path) -> Generator[Path, None, None]:
    """Yield a folder that takes the name `path` at the end, and is gone if something fails."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", suffix=".partial", dir=path.parent) as name:
            folder = Path(name, "whole")
            folder.mkdir()
            yield folder
            flush_folder(folder)
            check_folder(path, 0)  # it may have appeared meanwhile
            folder.rename(path)
            flush_folder(path.parent)
    except OSError as error:
        if isinstance(error, WncoreError):
            raise
        raise WriteError(f"{path} could not be written: {error.strerror or error}; nothing was changed") from error
