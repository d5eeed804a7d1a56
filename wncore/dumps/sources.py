"""The files behind a source: a file, an index of shards, or a folder of either."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wncore.dumps import strict_json
from wncore.dumps.header import LONGEST, open_regular
from wncore.errors import DumpError

INDEX = ".safetensors.index.json"


def find_files(sources: Sequence[Path]) -> dict[Path, set[str]]:
    """Find the safetensors files of all sources, each once, and the tensors that an index says each holds.

    The order is that of the sources, within a folder or an index that of the names, numbers by value.

    Raises
    ------
    DumpError
        If a source names no file, two of them name the same, or an index is damaged.
    """
    if not sources:
        raise DumpError("no dump was named; give a .safetensors file, an index or a folder of them")
    files: dict[Path, set[str]] = {}
    seen: set[str] = set()
    for source in sources:
        if "\0" in str(source):
            raise DumpError(f"there is no file {source}; name another")
        for file, names in _files_of(source).items():
            real = os.path.realpath(file)
            if real in seen:
                raise DumpError(f"{file} was named twice and its tokens would count double; name it once")
            seen.add(real)
            files[file] = names
    return files


def by_number(name: str) -> list[tuple[int, int, str]]:
    """Sort layers.9 before layers.10."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part]


def _files_of(source: Path) -> dict[Path, set[str]]:
    if os.path.isdir(source):  # noqa: PTH112  (Path.is_dir raises where nothing may be looked at)
        return _files_in(source)
    return _indexed(source) if source.name.endswith(INDEX) else {source: set()}


def _files_in(folder: Path) -> dict[Path, set[str]]:
    try:
        names = sorted((path.name for path in folder.iterdir()), key=by_number)
    except OSError as error:
        raise DumpError(f"{folder} cannot be read: {error.strerror}; change its permissions") from error
    indexes = [name for name in names if name.endswith(INDEX)]
    if len(indexes) > 1:
        raise DumpError(f"{folder} holds {len(indexes)} indexes; name one: {', '.join(indexes[:6])}")
    if indexes:
        return _indexed(folder / indexes[0])
    files = [name for name in names if name.endswith(".safetensors") and not name.startswith(".")]
    if not files:
        raise DumpError(f"{folder} holds no .safetensors file; name another folder, or a file")
    return {folder / name: set() for name in files}


def _indexed(index: Path) -> dict[Path, set[str]]:
    with open_regular(index) as file:
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise DumpError(f"{index} has more than {LONGEST} bytes; name the files themselves")
    try:
        content = strict_json.loads(text)
    except ValueError as error:
        raise DumpError(f"{index} is not sound JSON: {error}; write it again") from error
    where = content.get("weight_map") if strict_json.is_object(content) else None
    if not strict_json.is_object(where) or not where:
        raise DumpError(f"{index} is no index of shards; it needs an object 'weight_map' that names files")
    files: dict[Path, set[str]] = {}
    for tensor, value in where.items():
        names = value if strict_json.is_list(value) else [value]
        for name in names:
            _check_shard(index, name)
            files.setdefault(index.parent / name, set()).add(tensor)
        if not names or names != sorted(set(names), key=by_number):
            raise DumpError(
                f"{index} must list the files of {tensor[:80]} once, in the order of their numbers; mend it"
            )
    return dict(sorted(files.items(), key=lambda item: by_number(item[0].name)))


def _check_shard(index: Path, name: Any) -> None:
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise DumpError(f"{index} names {str(name)[:80]!r}; a shard lies beside its index, with no folder in its name")
    if not os.path.exists(index.parent / name):  # noqa: PTH110  (Path.exists raises for names that are too long)
        raise DumpError(f"{index} names {name[:80]}, which is missing; copy it beside the index")
