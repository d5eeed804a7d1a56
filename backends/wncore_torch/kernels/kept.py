"""Triton's compiled kernels between runs, kept as the core keeps compiled code: `wncore.kept`.

Triton's own cache makes a folder "~" where there is no home, ends the run over a damaged file, and loads what others
wrote. It wants paths, so that each run works in a folder of its own, which goes with it.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import triton
from triton.runtime.cache import CacheManager, FileCacheManager

from wncore import kept


@contextmanager
def kept_kernels() -> Iterator[None]:
    """Let Triton keep here what it compiles meanwhile; it is left alone if the user chose a cache, or it is too old."""
    cache = getattr(getattr(triton, "knobs", None), "cache", None)
    if cache is None or cache.manager_class is not None:
        yield
        return
    with cache.scope():
        cache.manager_class = KernelCache
        yield


class KernelCache(CacheManager):
    """The files of one kernel, by their names."""

    def __new__(cls, key: str, override: bool = False, dump: bool = False) -> Any:
        """Leave what is dumped for reading to Triton."""
        return FileCacheManager(key, override, dump) if override or dump else super().__new__(cls)

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        self._key = key

    def get_file(self, filename: str) -> str | None:
        path = self._path(filename)
        if not path.exists():
            data = kept.load(_folders(), *self._identity(filename))
            if data is None:
                return None
            path.write_bytes(data)
        return str(path)

    def put(self, data: bytes | str, filename: str, binary: bool = True) -> str:
        raw = data if isinstance(data, bytes) else str(data).encode()
        path = self._path(filename)
        path.write_bytes(raw)
        kept.save(_folders(), *self._identity(filename), raw, "TRITON_CACHE_DIR")
        return str(path)

    def get_group(self, filename: str) -> dict[str, str] | None:
        listed = self.get_file(f"__grp__{filename}")
        if listed is None:
            return None
        found = {name: self.get_file(name) for name in json.loads(Path(listed).read_text())}
        return None if None in found.values() else found  # pyright: ignore[reportReturnType]

    def put_group(self, filename: str, group: dict[str, str]) -> str:
        return self.put(json.dumps(list(group)), f"__grp__{filename}")

    def _path(self, filename: str) -> Path:
        folder = Path(_scratch().name) / self._key
        folder.mkdir(exist_ok=True)
        return folder / filename

    def _identity(self, filename: str) -> tuple[str, bytes]:
        origin = repr((triton.__version__, self._key, filename)).encode()
        return f"{filename[:100]}-{sha256(origin).hexdigest()[:16]}", origin


@lru_cache(maxsize=1)
def _scratch() -> TemporaryDirectory:
    """Make the folder of this run, which is removed at its end."""
    return TemporaryDirectory(prefix="wncore-kernels-")


def _folders() -> list[Path]:
    given = os.environ.get("TRITON_CACHE_DIR")
    return kept.folder_in(given) if given else kept.folder_at_home()
