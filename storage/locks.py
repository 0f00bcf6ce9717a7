"""One process at a time builds an artifact: `home/locks/<kind>-<key>.lock`, which the kernel frees with its process."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from storage.errors import StorageError

logger = logging.getLogger("saeflow.storage")


class Locks:
    """The locks of the artifacts under one home directory."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @contextmanager
    def hold(self, kind: str, key: str, wait: bool = True) -> Iterator[None]:
        """Hold a lock, waiting for it if need be. Raises StorageError when it is held and this should not wait."""
        while True:
            file = self._open(kind, key)
            with file:  # closing lets go of the lock
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not wait:
                        raise StorageError(
                            f"another process is at work on {kind}/{key}. Try again when it is done."
                        ) from None
                    logger.warning("waiting for another process that builds %s/%s", kind, key)
                    fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_at(file, self._path(kind, key)):  # its holder dropped it: others lock a new file by now
                    continue
                yield
                return

    def is_held(self, kind: str, key: str) -> bool:
        """Whether a process is at work."""
        try:
            with self._path(kind, key).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def drop(self, kind: str, key: str) -> None:
        """Delete the file of a lock that this process holds, once there is nothing left to lock."""
        self._path(kind, key).unlink()

    def _path(self, kind: str, key: str) -> Path:
        return self.home / "locks" / f"{kind}-{key}.lock"

    def _open(self, kind: str, key: str) -> TextIO:
        path = self._path(kind, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("a")
        except OSError as error:
            raise StorageError(
                f"{self.home} cannot be written: {error.strerror}. Choose another home with $SAEFLOW_HOME."
            ) from error


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
