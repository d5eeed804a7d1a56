"""Compiled code that is kept between runs, as a convenience: whatever is wrong with it, it is compiled again.

A file says what it was made from and holds a digest of its contents, since they are run: one that a full disk or a
power cut left half written is noticed, and one that somebody else may have written is not read. Folders count in the
order given, for reading; it is written to the first that can be. No folder is made where none is meant to be: a home
that does not exist, a path that begins with "~".
"""

import logging
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

SOURCE = Path(__file__).parent
MAGIC = b"wncore compiled code 1\n"
HEAD = len(MAGIC) + 64
"""Bytes before the code: the digests of what it was made from, and of itself."""
LOG = logging.getLogger("wncore")
_said: list[str] = []


def load(folders: Iterable[Path], name: str, origin: bytes) -> bytes | None:
    """Return what was saved under a name and made from `origin`, None if there is no such thing."""
    for folder in folders:
        path = folder / name
        try:
            raw = _read(path)
        except OSError:
            continue  # if it matters, saving will fail, too, and say so
        if raw is None:
            say_once(f"{path} may have been written by somebody else; it is not read, the code is compiled again")
        elif raw[: len(MAGIC)] != MAGIC or raw[HEAD - 32 : HEAD] != digest(raw[HEAD:]):
            say_once(f"{path} is damaged; the code is compiled again")
        elif raw[len(MAGIC) : HEAD - 32] == digest(origin):
            return raw[HEAD:]
    return None


def save(folders: Iterable[Path], name: str, origin: bytes, code: bytes, setting: str) -> None:
    """Write compiled code to the first folder that takes it; say so if none does, and that `setting` may name one."""
    reason = f"there is no folder {given}" if (given := os.environ.get(setting)) else "there is no home"
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / name, MAGIC + digest(origin) + digest(code) + code)
        except OSError as error:
            reason = f"{folder}: {error.strerror or error}"
        else:
            return
    say_once(
        f"compiled code is not kept, and is compiled again in every run: {reason}; name a folder of your own in "
        f"{setting}"
    )


def say_once(text: str) -> None:
    """Tell the user, who need not know more than the first of a run."""
    if not _said:
        _said.append(text)
        LOG.warning(text)


def folder_in(given: str | Path) -> list[Path]:
    """Return the folder of our own in one that is given; none if that begins with a "~" that nobody knows."""
    own = f"wncore-{sha256(os.fsencode(SOURCE)).hexdigest()[:16]}"
    try:
        return [Path(given).expanduser().absolute() / own]
    except RuntimeError:
        return []


def folder_at_home() -> list[Path]:
    """Return the folder of our own among the user's caches; none without a home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return folder_in(given)
    try:
        home = Path.home()
        return folder_in(home / ".cache") if home.is_absolute() and home.is_dir() else []
    except (RuntimeError, OSError):
        return []


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


def digest(data: bytes) -> bytes:
    """Return the SHA-256 of some bytes."""
    return sha256(data).digest()
