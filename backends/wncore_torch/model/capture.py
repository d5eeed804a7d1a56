"""`capture`: what the layers of a model read and give on a text, and their weights, as a dump of one file a block."""

import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wncore.dumps.stream import Shapes, streamed_tensors
from wncore.errors import InputError, WriteError
from wncore.failures import Fail, forgive
from wncore.files import check_new_folder, new_folder
from wncore.resources import size
from wncore.tick import Tick, idle
from wncore_torch.model.held import Collected, holders
from wncore_torch.model.linears import Linear
from wncore_torch.model.stream import Block, Read
from wncore_torch.model.written import OnDisk, count_rows, size_of, write_weights

if TYPE_CHECKING:
    from wncore_torch.model.source import ModelSource

INDEX = "dump.safetensors.index.json"
PARTS = ("input", "output", "weight")


@dataclass(frozen=True)
class Captured:
    """What was written."""

    files: list[Path]
    bytes: int


def check_folder(path: Path, needed: int) -> None:
    """Raise before the work what `capture` would raise after it.

    Raises
    ------
    WncoreError
        As `check_new_folder`.
    WriteError
        If the disk has less room than `needed` bytes.
    """
    check_new_folder(path)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise WriteError(
            f"{path} would take {size(needed)}, and {size(free)} are free there; capture fewer layers (--layer), fewer "
            f"--windows or only --part input"
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
    chosen = set(chosen)
    layers = [layer for layer in source.linears.layers if layer.name in chosen]
    metadata = _metadata(source, layers)
    where: dict[str, str] = {}
    total = 0
    with new_folder(output) as folder:
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
    return Captured(files, total)


def _write_block(
    source: "ModelSource",
    block: Block,
    layers: list[Linear],
    path: Path,
    parts: Collection[str],
    metadata: dict[str, str],
    starts: list[int],
    tick: Tick,
) -> Shapes:
    counts = count_rows(block, layers)
    shapes = source.layout(layers, parts, counts)
    if not shapes:
        block.hand_on()
        return {}
    with streamed_tensors(path, shapes, metadata) as writer:
        collected = Collected(layers, parts, starts, OnDisk(writer, counts, starts, source.windows.shape[1]))

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
