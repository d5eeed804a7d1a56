"""The decorator of all compiled functions: Numba, with a cache that cannot stop anybody (`wncore.kept`).

Numba's own cache ends the program if there is no place for it, if it cannot be written to, and if a file of it is
damaged; then it does so for ever after.
"""

import pickle
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import config
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from wncore import kept

SOURCE = Path(__file__).parent


def compiled(function: Callable[..., Any] | None = None, *, fastmath: bool | set[str] = False) -> Any:
    """Compile a function for the types of its arguments at its first call, to run without Python's lock."""
    if function is None:
        return partial(compiled, fastmath=fastmath)
    dispatcher: Any = numba.njit(nogil=True, fastmath=fastmath)(function)
    if hasattr(dispatcher, "_cache"):  # not with NUMBA_DISABLE_JIT
        dispatcher._cache = _Cache(function)
    return dispatcher


def _folders() -> list[Path]:
    """Return where Numba would keep code, in its order and by its settings: as told, beside the source, at home."""
    if given := getattr(config, "CACHE_DIR", ""):
        return kept.folder_in(given)
    places = {"InTreeCacheLocator": [SOURCE / "__pycache__"], "UserWideCacheLocator": kept.folder_at_home()}
    chosen = getattr(config, "CACHE_LOCATOR_CLASSES", "") or ",".join(places)  # older versions have no such setting
    return [folder for locator in chosen.split(",") for folder in places.get(locator.strip(), [])]


@lru_cache(maxsize=1)
def _source_digest() -> bytes:
    """Digest all modules of this package: compiled functions have others within them."""
    sources = [(path.relative_to(SOURCE).as_posix(), path.read_bytes()) for path in sorted(SOURCE.rglob("*.py"))]
    return kept.digest(repr(sources).encode())


class _Cache:
    """What a dispatcher of Numba asks of a cache; nothing that goes wrong here leaves it."""

    cache_path = None

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a compiled function, None if there is none that can be used."""
        target_context.refresh()
        try:
            code = kept.load(_folders(), *self._identity(sig, target_context.codegen()))
            return None if code is None else CompileResult._rebuild(target_context, *pickle.loads(code))
        except Exception as error:
            kept.say_once(f"compiled code cannot be used, and is compiled again: {type(error).__name__}: {error}")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function."""
        try:
            if not data.library.has_dynamic_globals:
                name, origin = self._identity(sig, data.codegen)
                kept.save(_folders(), name, origin, dumps(data._reduce()), "NUMBA_CACHE_DIR")
        except Exception as error:
            kept.say_once(f"compiled code cannot be kept: {type(error).__name__}: {error}")

    def _identity(self, sig: Any, codegen: Any) -> tuple[str, bytes]:
        """Return the name of a file, by function, types, processor and Python, and what its code is made from."""
        place = repr((self._name, sig, codegen.magic_tuple(), sys.implementation.cache_tag))
        versions = repr((numba.__version__, llvmlite.__version__, sys.version))
        name = f"{self._name}-{sha256(place.encode()).hexdigest()[:16]}.nbc"
        return name, f"{place}{versions}".encode() + _source_digest()

    def enable(self) -> None:
        """Do nothing: it is on."""

    def disable(self) -> None:
        """Do nothing: it is harmless."""

    def flush(self) -> None:
        """Do nothing: what was compiled stays as it was compiled."""
