"""How bytes reach the disk: whole or not at all, and still there after a crash.

A file is written under a temporary name, flushed with fsync, renamed, and then its directory is flushed too:
rename alone survives `kill -9`, but not a power cut.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

from storage.errors import OutOfSpace

# The suffix that zarr's LocalStore gives its own temporary files: one rule finds every stray one.
TEMPORARY = ".partial"

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader sees the old file or the new one, never a part.

    Raises OutOfSpace, and leaves no temporary file behind, when the disk is full.
    """
    with _flushed(path, data) as temporary:
        temporary.replace(path)
    _flush(path.parent)


def write_new(path: Path, data: bytes) -> bool:
    """The same, but only if there is no file at `path`: False, and nothing is changed, if there is one.

    Any number of threads and processes may try at once: one of them gets True. Only on a file system without hard
    links (exFAT, some network shares) can it be several, of which the last replaces what the others wrote.
    """
    with _flushed(path, data) as temporary:
        try:
            path.hardlink_to(temporary)  # unlike a rename, it never replaces
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Two writers of a part write the same bytes, and all else has one writer at a time.
            if path.exists():
                return False
            temporary.replace(path)
    _flush(path.parent)
    return True


@contextmanager
def _flushed(path: Path, data: bytes) -> Iterator[Path]:
    """A temporary file that holds, on the disk, the `data` that is meant for `path`; it is gone at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Named by process and thread: two may be about to write the same file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{get_ident()}{TEMPORARY}")
    try:
        with naming_a_full_disk(path, len(data)), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def flush_files(root: Path, names: Iterable[str]) -> None:
    """fsync the files `names` under `root`, and every directory between them and `root`."""
    directories = {root}
    for name in names:
        path = root / name
        _flush(path)
        directories.update(parent for parent in path.parents if parent.is_relative_to(root))
    for directory in directories:
        _flush(directory)


@contextmanager
def naming_a_full_disk(path: Path, needed: int | None) -> Iterator[None]:
    """Turn the operating system's "no space left on device" into OutOfSpace with path and bytes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise OutOfSpace(path, needed, shutil.disk_usage(_nearest_existing(path)).free) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _nearest_existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())
