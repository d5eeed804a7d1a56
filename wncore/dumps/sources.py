"""The files behind a source: a file, an index of shards, or a folder of either."""

import json
from collections.abc import Sequence
from pathlib import Path

from wncore.errors import DumpError

INDEX = ".safetensors.index.json"


def find_files(sources: Sequence[Path]) -> list[Path]:
    """List the safetensors files of all sources, each once.

    Raises
    ------
    DumpError
        If a source does not exist, names no file, or two of them name the same.
    """
    if not sources:
        raise DumpError("no dump was named")
    files = [file for source in sources for file in _files_of(source)]
    seen: set[Path] = set()
    for file in files:
        real = file.resolve()
        if real in seen:
            raise DumpError(f"{file} was named twice; its tokens would count double")
        seen.add(real)
    return files


def _files_of(source: Path) -> list[Path]:
    if source.is_dir():
        return _files_in(source)
    return _indexed(source) if source.name.endswith(INDEX) else [source]


def _files_in(folder: Path) -> list[Path]:
    indexes = sorted(folder.glob(f"*{INDEX}"))
    if len(indexes) > 1:
        raise DumpError(f"{folder} holds {len(indexes)} indexes; name one: {', '.join(p.name for p in indexes)}")
    files = _indexed(indexes[0]) if indexes else sorted(folder.glob("*.safetensors"))
    if not files:
        raise DumpError(f"{folder} holds no .safetensors file")
    return files


def _indexed(index: Path) -> list[Path]:
    try:
        values = json.loads(index.read_bytes())["weight_map"].values()
    except OSError as error:
        raise DumpError(f"{index} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DumpError(f"{index} is not an index of shards: it needs an object 'weight_map'") from error
    names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise DumpError(f"{index} names {name!r}; a shard lies beside its index, without a folder in its name")
        if not (index.parent / name).is_file():
            raise DumpError(f"{index} names {name}, which is missing; copy it beside the index")
    if not names:
        raise DumpError(f"{index} names no file")
    return [index.parent / name for name in sorted(set(names))]
