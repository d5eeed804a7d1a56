"""Writing so that nothing is lost: a new file appears whole, or the old one stays."""

import errno
import mmap
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wncore.errors import InputError, OutputExistsError, WncoreError, WriteError

UNKNOWN = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS}
"""What file systems answer that know no permissions, or no flushing. Nothing is lost by it; EIO, ENOSPC lose data."""


def sweep_paths(path: Path, settings: Sequence[str]) -> list[Path]:
    """Name a file for each run of a sweep: the path itself for one, else with the setting in it.

    >>> [str(path) for path in sweep_paths(Path("out.safetensors"), ["0.5", "2:4"])]
    ['out-0.5.safetensors', 'out-2of4.safetensors']
    """
    if len(settings) == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{setting.replace(':', 'of')}{path.suffix}") for setting in settings]


def check_output(path: Path, force: bool) -> None:
    """Raise now what `replacing` would raise after the work is done.

    Raises
    ------
    OutputExistsError
        If the path exists and `force` is off, or is no regular file.
    InputError
        If its folder does not exist or cannot be written to.
    """
    target = _target(path)
    try:
        found = target.exists()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another name") from error
    if target.is_dir():
        raise OutputExistsError(f"{path} is a folder; name a file in it")
    if found and not target.is_file():
        raise OutputExistsError(f"{path} is no regular file and would be lost; choose another name")
    if found and not force:
        raise OutputExistsError(f"{path} exists already; choose another name, or replace it with --force")
    _demand_writable(target.parent, path.name)


def _demand_writable(folder: Path, name: str) -> None:
    """Raise if nothing can be written into a folder: tried, since what permissions say is not all (/proc, say)."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} to write {name} into; make it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror}); choose another folder for {name}"
        ) from error


@contextmanager
def replacing(path: Path, force: bool = False) -> Generator[Path, None, None]:
    """Yield a temporary path beside `path`; on success flush it to the disk and rename it, else remove it.

    Raises
    ------
    WncoreError
        As `check_output`; and if writing failed, within the block or here: the disk is full, say.
    """
    check_output(path, force)
    target, temporary = _target(path), None
    try:
        with _blaming(path):
            handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".partial", dir=target.parent)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            with _if_known():
                temporary.chmod(0o666 & ~umask)  # mkstemp is for the owner's eyes only
            _flush(temporary)
            check_output(path, force)  # it may have appeared meanwhile
            temporary.replace(target)
            flush_folder(target.parent)
    finally:
        if temporary is not None:
            with suppress(OSError):  # what was done, or what went wrong, is not undone by this
                temporary.unlink(missing_ok=True)


def flush_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, where its file system can."""
    with suppress(OSError):
        _flush(path)


def check_new_folder(path: Path) -> None:
    """Raise now what `new_folder` would raise after the work is done.

    Raises
    ------
    OutputExistsError
        If there is something of that name.
    InputError
        If the folder that it is to be in is missing, or cannot be written to.
    """
    if path.exists() or path.is_symlink():
        raise OutputExistsError(f"{path} exists already; choose another name, or remove it")
    _demand_writable(path.parent, path.name)


@contextmanager
def new_folder(path: Path) -> Generator[Path, None, None]:
    """Yield a folder that takes the name `path` at the end, flushed to the disk; none is left if something fails.

    Raises
    ------
    WncoreError
        As `check_new_folder`; and if writing failed, within the block or here.
    """
    check_new_folder(path)
    with (
        _blaming(path),
        tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", suffix=".partial", dir=path.parent) as name,
    ):
        folder = Path(name, "whole")
        folder.mkdir()
        yield folder
        flush_folder(folder)
        check_new_folder(path)  # it may have appeared meanwhile
        folder.rename(path)
        flush_folder(path.parent)


@contextmanager
def _blaming(path: Path) -> Generator[None, None, None]:
    """Say of which file or folder it is that writing failed."""
    try:
        yield
    except OSError as error:
        if isinstance(error, WncoreError):
            raise
        raise WriteError(f"{path} could not be written: {error.strerror or error}; nothing was changed") from error


def _target(path: Path) -> Path:
    """Follow links, so that they stay links."""
    return Path(os.path.realpath(path))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        flush(handle)
    finally:
        os.close(handle)


def flush(handle: int) -> None:
    """Flush an open file to the disk, as far as its file system knows how to; that data were lost is an error."""
    with _if_known():
        os.fsync(handle)


@contextmanager
def _if_known() -> Generator[None, None, None]:
    """Do without what a file system does not know."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise


def release(array: NDArray[Any]) -> None:
    """Let go of the memory of an array that was spooled, until it is read again; does nothing to any other."""
    owner = array if isinstance(array, np.memmap) else array.base  # of a plain view of it
    mapped = getattr(owner, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def spool(array: NDArray[Any], folder: Path) -> NDArray[Any]:
    """Move an array into a file without a name in `folder`; the view that is returned leaves memory when it is short.

    The file is gone as soon as nobody holds the view, however the process ends.

    Raises
    ------
    WncoreError
        If the disk is full.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for part in array:
                file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
            file.flush()
            return np.memmap(file, array.dtype, "r", shape=array.shape)
    except OSError as error:
        raise WriteError(
            f"{folder} has no room for weights that wait to be saved: {error.strerror or error}"
        ) from error
