"""Writing so that nothing is lost: a new file appears whole, or the old one stays."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wncore.errors import InputError, OutputExistsError


def check_output(path: Path, force: bool) -> None:
    """Raise now what `replacing` would raise after the work is done.

    Raises
    ------
    OutputExistsError
        If the path exists and `force` is off, or is a folder.
    InputError
        If its folder does not exist or cannot be written to.
    """
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder; name a file in it")
    if path.exists() and not force:
        raise OutputExistsError(f"{path} exists already; choose another name, or replace it with --force")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} into; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent} cannot be written to; choose another folder for {path.name}")


@contextmanager
def replacing(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to the disk and rename it, else remove it."""
    check_output(path, force)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp is for the owner's eyes only
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
