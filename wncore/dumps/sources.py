"""The files behind a source: a file, an index of shards, or a folder of either."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wncore.dumps import strict_json
from wncore.dumps.foreign import refuse_foreign
from wncore.dumps.header import LONGEST, LONGEST_NAME, MOST_AXES, Entry, open_regular
from wncore.errors import DumpError, listed

INDEX = re.compile(r"\.safetensors\.index(\.[^.]+)?\.json\Z", re.IGNORECASE)
"""How the name of an index ends: a variant of a model has its own, model.safetensors.index.fp16.json."""


@dataclass(frozen=True)
class Index:
    """What an index of shards says: a map from tensors to files, and not only a list of these."""

    path: Path
    where: dict[str, list[str]]
    """Names of files by tensor."""

    def held(self) -> dict[Path, set[str]]:
        """Return the tensors that each file holds, in the order of the names of the files, numbers by value."""
        files: dict[str, set[str]] = {}
        for tensor, names in self.where.items():
            for name in names:
                files.setdefault(name, set()).add(tensor)
        return {self.path.parent / name: files[name] for name in sorted(files, key=by_number)}

    def elsewhere(self, file: Path, tensor: str) -> str | None:
        """Say why a tensor in one of the files is not the one that counts; None if it is."""
        names = self.where.get(tensor)
        if names is None:
            return f"{self.path.name} does not name it"
        return None if file.name in names else f"{self.path.name} says that it is in {listed(names)}"


@dataclass(frozen=True)
class Files:
    """The files of a dump, and what the indexes that named them say."""

    held: dict[Path, set[str]] = field(default_factory=dict[Path, set[str]])
    """The tensors that a file is said to hold, nothing else of it counts; empty: whatever it holds."""
    indexes: dict[Path, Index] = field(default_factory=dict[Path, Index])
    """By file, if it was named by one."""
    notes: list[str] = field(default_factory=list[str])

    def passed_over(self, file: Path, entry: Entry) -> str | None:
        """Say why a tensor of one of the files does not count; None if it does."""
        if len(entry.name) > LONGEST_NAME:
            return f"its name has {len(entry.name)} characters, more than {LONGEST_NAME}"
        if len(entry.shape) > MOST_AXES:
            return f"it has {len(entry.shape)} axes, more than {MOST_AXES}"
        index = self.indexes.get(file)
        return None if index is None else index.elsewhere(file, entry.name)


def find_files(sources: Sequence[Path]) -> Files:
    """Find the safetensors files of all sources, each once.

    The order is that of the sources, within a folder or an index that of the names, numbers by value.

    Raises
    ------
    DumpError
        If a source names no file, two of them name the same, or an index is damaged.
    """
    if not sources:
        raise DumpError("no dump was named; give a .safetensors file, an index or a folder of them")
    found = Files()
    seen: set[str] = set()
    for source in sources:
        if "\0" in str(source):
            raise DumpError(f"there is no file {source}; name another")
        index, files = _files_of(source)
        for file, names in files.items():
            real = os.path.realpath(file)
            if real in seen:
                raise DumpError(f"{file} was named twice and its tokens would count double; name it once")
            seen.add(real)
            found.held[file] = names
            if index is not None:
                found.indexes[file] = index
    for index in {index.path: index for index in found.indexes.values()}.values():
        found.notes.extend(_strays(index, seen))
    return found


def by_number(name: str) -> list[tuple[int, int, str]]:
    """Sort layers.9 before layers.10."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part]


def is_index(name: str) -> bool:
    """Whether a file of that name is an index of shards.

    >>> is_index("model.safetensors.index.json"), is_index("model.safetensors.index.fp16.json"), is_index("index.json")
    (True, True, False)
    """
    return INDEX.search(name) is not None


def _files_of(source: Path) -> tuple[Index | None, dict[Path, set[str]]]:
    if os.path.isdir(source):  # noqa: PTH112  (Path.is_dir raises where nothing may be looked at)
        return _files_in(source)
    if not is_index(source.name):
        return None, {source: set()}
    index = _read_index(source)
    return index, index.held()


def _files_in(folder: Path) -> tuple[Index | None, dict[Path, set[str]]]:
    try:
        names = sorted((path.name for path in folder.iterdir()), key=by_number)
    except OSError as error:
        raise DumpError(f"{folder} cannot be read: {error.strerror}; change its permissions") from error
    indexes = [name for name in names if is_index(name)]
    if len(indexes) > 1:
        raise DumpError(f"{folder} holds {len(indexes)} indexes; name one: {', '.join(indexes[:6])}")
    if indexes:
        return _files_of(folder / indexes[0])
    files = [name for name in names if _is_shard(name)]
    if not files:
        others = [name[:80] for name in names if not name.startswith(".")]
        there = f", but {listed(others, most=3)}" if others else ""
        raise DumpError(f"{folder} holds no .safetensors file{there}; name another folder, or a file")
    return None, {folder / name: set[str]() for name in files}


def _is_shard(name: str) -> bool:
    return name.lower().endswith(".safetensors") and not name.startswith(".")


def _strays(index: Index, seen: set[str]) -> list[str]:
    """Say which files lie beside an index that does not name them, and nobody else either."""
    try:
        names = sorted((path.name for path in index.path.parent.iterdir() if _is_shard(path.name)), key=by_number)
    except OSError:  # a folder may be closed to those who look around, and open to those who know the way
        return []
    strays = [name for name in names if os.path.realpath(index.path.parent / name) not in seen]
    if not strays:
        return []
    verb, them = ("are", "them") if strays[1:] else ("is", "it")
    return [f"{listed(strays)} beside {index.path.name} {verb} passed over: it does not name {them}"]


def _read_index(path: Path) -> Index:
    return Index(path, {tensor: _shards(path, tensor, value) for tensor, value in read_weight_map(path).items()})


def read_weight_map(path: Path) -> dict[str, Any]:
    """Read what an index of shards says: tensor -> the name of its file, or of several, which nobody has checked yet.

    Raises
    ------
    DumpError
        If it is no regular file, too long, not sound JSON, or has no such map.
    """
    with open_regular(path) as file, refuse_foreign(path, file, "index"):
        text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise DumpError(f"{path} has more than {LONGEST} bytes; name the files themselves")
        try:
            content = strict_json.loads(text)
        except ValueError as error:
            raise DumpError(f"{path} is not sound JSON: {error}; write it, or download it, again") from error
    where = content.get("weight_map") if strict_json.is_object(content) else None
    if not strict_json.is_object(where) or not where:
        raise DumpError(f"{path} is no index of shards; it needs an object 'weight_map' that names files")
    return where


def _shards(index: Path, tensor: str, value: Any) -> list[str]:
    names = value if strict_json.is_list(value) else [value]
    for name in names:
        _check_shard(index, name)
    if not names or names != sorted(set(names), key=by_number):
        raise DumpError(f"{index} must list the files of {tensor[:80]} once, in the order of their numbers; mend it")
    return names


def _check_shard(index: Path, name: Any) -> None:
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise DumpError(f"{index} names {str(name)[:80]!r}; a shard lies beside its index, with no folder in its name")
    if not os.path.exists(index.parent / name):  # noqa: PTH110  (Path.exists raises for names that are too long)
        raise DumpError(f"{index} names {name[:80]}, which is missing; copy it beside the index")
