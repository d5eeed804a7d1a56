"""Compiled code kept between runs, as a convenience: whatever is wrong with it, the code is compiled again.

One file for each function and signature. It says what it was made from and holds a digest of its contents, since Numba
unpickles and runs what it finds: a file that a full disk or a power cut left half written is noticed, and one that
somebody else may have written is not read. A folder counts in the order given, for reading; it is written to the first
that can be. No folder is made where none is meant to be: a home that does not exist, a path that begins with "~".
"""

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from numba.core import config

SOURCE = Path(__file__).parent
MAGIC = b"wncore compiled code 1\n"
HEAD = len(MAGIC) + 64
"""Bytes before the code: the digests of what it was made from, and of itself."""
LOG = logging.getLogger("wncore")
_said: list[str] = []


def load(name: str, origin: bytes) -> bytes | None:
    """Return what was saved under a name and made from `origin`, None if there is no such thing."""
    for folder in _folders():
        path = folder / name
        try:
            raw = _read(path)
        except OSError:
            continue  # if it matters, saving will fail, too, and say so
        if raw is None:
            say_once(f"{path} may have been written by somebody else; it is not read, the code is compiled again")
        elif raw[: len(MAGIC)] != MAGIC or raw[HEAD - 32 : HEAD] != _digest(raw[HEAD:]):
            say_once(f"{path} is damaged; the code is compiled again")
        elif raw[len(MAGIC) : HEAD - 32] == _digest(origin):
            return raw[HEAD:]
    return None


def save(name: str, origin: bytes, code: bytes) -> None:
    """Write compiled code to the first folder that takes it; say so if none does."""
    reason = f"there is no folder {_setting('CACHE_DIR')}" if _setting("CACHE_DIR") else "there is no home"
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / name, MAGIC + _digest(origin) + _digest(code) + code)
        except OSError as error:
            reason = f"{folder}: {error.strerror or error}"
        else:
            return
    say_once(
        f"compiled code is not kept, and is compiled again in every run: {reason}; name a folder of your own in "
        "NUMBA_CACHE_DIR"
    )


def say_once(text: str) -> None:
    """Tell the user, who need not know more than the first of a run."""
    if not _said:
        _said.append(text)
        LOG.warning(text)


def _folders() -> Iterator[Path]:
    """Yield where Numba would keep code, in its order and by its settings: as told, beside the source, in the home."""
    own = f"wncore-{sha256(os.fsencode(SOURCE)).hexdigest()[:16]}"
    if given := _setting("CACHE_DIR"):
        with suppress(RuntimeError):  # "~somebody" whom nobody knows
            yield Path(given).expanduser().absolute() / own
        return
    for locator in (_setting("CACHE_LOCATOR_CLASSES") or "InTreeCacheLocator,UserWideCacheLocator").split(","):
        if locator.strip() == "InTreeCacheLocator":
            yield SOURCE / "__pycache__"
        elif locator.strip() == "UserWideCacheLocator" and (home := _home_cache()):
            yield home / own


def _setting(name: str) -> str:
    """Return a setting of Numba's, from NUMBA_... or its file; older versions lack some."""
    return getattr(config, name, "")


def _home_cache() -> Path | None:
    """Return the user's folder of caches; None without a home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given
    try:
        home = Path.home()
        return home / ".cache" if home.is_absolute() and home.is_dir() else None
    except (RuntimeError, OSError):
        return None


def _read(path: Path) -> bytes | None:
    """Read a file, None if somebody else may have written it."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise IsADirectoryError(path)
        return file.read() if _trusted(found) else None


def _trusted(found: os.stat_result) -> bool:
    """Say whether nobody else may have written a file; who owns the source may do as he likes anyway."""
    if not hasattr(os, "geteuid"):
        return True
    ours = found.st_uid in (os.geteuid(), 0, SOURCE.stat().st_uid)
    return ours and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _write(path: Path, data: bytes) -> None:
    """Write a file, readable by all and writable by us alone; it appears whole or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        with suppress(OSError):  # some file systems know no modes
            Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@lru_cache(maxsize=1)
def source_digest() -> bytes:
    """Digest all modules of this package: compiled functions have others within them."""
    total = sha256()
    for path in sorted(SOURCE.rglob("*.py")):
        total.update(_digest(os.fsencode(path.relative_to(SOURCE))) + _digest(path.read_bytes()))
    return total.digest()


def _digest(data: bytes) -> bytes:
    return sha256(data).digest()
