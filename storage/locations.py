"""Where stored things are: a directory behind one URI.

The activation store touches its files only through a `Location`, so that an object store can take the
directory's place without a change to the layout.
"""

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from storage.durable import flush_files, naming_a_full_disk, write_whole
from storage.errors import StorageError

if TYPE_CHECKING:
    from zarr.abc.store import Store


class Location(Protocol):
    """A place that holds named files; names are relative and use `/`."""

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        ...

    def commit(self, name: str, data: bytes) -> None:
        """Write the whole file atomically and durably. Raises OutOfSpace."""
        ...

    def exists(self, name: str) -> bool: ...

    def size(self, name: str) -> int:
        """Bytes. Raises FileNotFoundError."""
        ...

    def names(self, prefix: str = "") -> list[str]:
        """All files under the folder `prefix`, sorted."""
        ...

    def remove(self, name: str) -> None:
        """Delete one file; it is no error if it is gone."""
        ...

    def sync(self, names: Iterable[str]) -> None:
        """Make files that something else wrote (zarr never calls fsync) survive a power cut."""
        ...

    def naming_a_full_disk(self, needed: int | None) -> AbstractContextManager[None]:
        """Raise OutOfSpace where something else that writes `needed` bytes here finds the place full."""
        ...

    def child(self, name: str) -> "Location": ...

    def zarr_store(self) -> "Store":
        """This place as zarr sees it."""
        ...


class LocalDirectory:
    """A Location that is a directory of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def commit(self, name: str, data: bytes) -> None:
        write_whole(self.path / name, data)

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def names(self, prefix: str = "") -> list[str]:
        files = (path for path in (self.path / prefix).rglob("*") if path.is_file())
        return sorted(path.relative_to(self.path).as_posix() for path in files)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def sync(self, names: Iterable[str]) -> None:
        flush_files(self.path, names)

    def naming_a_full_disk(self, needed: int | None) -> AbstractContextManager[None]:
        return naming_a_full_disk(self.path, needed)

    def child(self, name: str) -> "LocalDirectory":
        return LocalDirectory(self.path / name)

    def zarr_store(self) -> "Store":
        from zarr.storage import LocalStore  # imported here: the command line must not wait for zarr

        return LocalStore(self.path)


def open_location(uri: str | Path) -> Location:
    """The Location at `uri`, a path or `file://…`. Raises StorageError for any other scheme."""
    return LocalDirectory(local_path(uri))


def local_path(uri: str | Path) -> Path:
    """The directory that `uri` names; it need not exist. Raises StorageError unless it is on this machine."""
    scheme = re.match(r"([a-z][a-z0-9+.-]+):/", str(uri))
    if scheme is None:
        return Path(uri).expanduser()
    if scheme[1] == "file":
        return Path(unquote(urlsplit(str(uri)).path))
    raise StorageError(
        f"{uri} cannot be used: this version keeps its files in local directories only. "
        "Give a path, such as ./runs or file:///data/runs."
    )
