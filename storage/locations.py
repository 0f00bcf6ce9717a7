"""Where stored things are: a directory or an object store behind one URI.

The activation store touches its files only through a `Location`, so that an object store can take the
directory's place without a change to the layout.
"""

import hashlib
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from storage.durable import flush_files, naming_a_full_disk, write_new, write_whole
from storage.errors import StorageError

if TYPE_CHECKING:
    from zarr.abc.store import Store


class Location(Protocol):
    """A place that holds named files; names are relative and use `/`."""

    parallel_reads: int
    """How many reads at once make the most of it."""

    @property
    def uri(self) -> str:
        """What `open_location` makes this place of again, in any process."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        ...

    def commit(self, name: str, data: bytes) -> None:
        """Write the whole file atomically and durably. Raises OutOfSpace."""
        ...

    def commit_new(self, name: str, data: bytes) -> bool:
        """The same, but only if there is no such file yet: False, and nothing is written, if there is one."""
        ...

    def copy_from(self, source: "Location", names: Iterable[str]) -> None:
        """Have the files `names` of another place here too, without a second copy of the bytes where that can be."""
        ...

    def exists(self, name: str) -> bool: ...

    def size(self, name: str) -> int:
        """Bytes. Raises FileNotFoundError."""
        ...

    def names(self, prefix: str = "") -> list[str]:
        """All files under the folder `prefix`, sorted."""
        ...

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of all files under the folder `prefix`, by name."""
        ...

    def sha256(self, name: str) -> str:
        """The checksum of a file, of which little is in memory at a time. Raises FileNotFoundError."""
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

    parallel_reads = 1  # one thread reads faster than anything here can compute

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def uri(self) -> str:
        return str(self.path.absolute())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def commit(self, name: str, data: bytes) -> None:
        write_whole(self.path / name, data)

    def commit_new(self, name: str, data: bytes) -> bool:
        return write_new(self.path / name, data)

    def copy_from(self, source: Location, names: Iterable[str]) -> None:
        for name in names:
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            if isinstance(source, LocalDirectory):
                try:
                    target.hardlink_to(source.path / name)
                    continue
                except OSError:  # another file system, or one without links
                    pass
            self.commit(name, source.read(name))

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def names(self, prefix: str = "") -> list[str]:
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        sizes: dict[str, int] = {}
        for path in (self.path / prefix).rglob("*"):
            with suppress(FileNotFoundError):  # another writer gave its temporary file the final name
                stat = path.stat()
                if S_ISREG(stat.st_mode):
                    sizes[path.relative_to(self.path).as_posix()] = stat.st_size
        return sizes

    def sha256(self, name: str) -> str:
        with (self.path / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def sync(self, names: Iterable[str]) -> None:
        flush_files(self.path, names)

    def naming_a_full_disk(self, needed: int | None) -> AbstractContextManager[None]:
        return naming_a_full_disk(self.path, needed)

    def child(self, name: str) -> "LocalDirectory":
        return LocalDirectory(self.path / name)

    def zarr_store(self) -> "Store":
        from storage.local_zarr import LocalZarrStore  # imported here: the command line must not wait for zarr

        return LocalZarrStore(self.path)


def open_location(uri: "str | Path | Location") -> Location:
    """The Location at `uri`: a path, file://…, s3://…, gs://… or az://…, or `uri` itself if it is one.

    Nothing is asked of it yet. Raises StorageError for another scheme.
    """
    if not isinstance(uri, str | Path):
        return uri
    if is_remote(uri):
        from storage.object_storage import ObjectLocation  # which is a Location itself

        return ObjectLocation(str(uri))
    return LocalDirectory(local_path(uri))


def remove_file(uri: str) -> None:
    """Delete the file that a path or URI names; it is no error if it is gone."""
    place, _, name = uri.rpartition("/")
    open_location(place).remove(name)


def is_remote(uri: str | Path) -> bool:
    """Whether `uri` names a place in an object store."""
    return re.match(r"(s3|gs|az)://[^/]", str(uri)) is not None


def local_path(uri: str | Path) -> Path:
    """The directory that `uri` names; it need not exist. Raises StorageError unless it is on this machine."""
    scheme = re.match(r"([a-z][a-z0-9+.-]+):/", str(uri))
    if scheme is None:
        return Path(uri).expanduser()
    if scheme[1] == "file":
        return Path(unquote(urlsplit(str(uri)).path))
    raise StorageError(
        f"{uri} is no place that can be used. Give a path, such as ./runs or file:///data/runs, or a prefix in an "
        "object store, such as s3://bucket/runs, gs://bucket/runs or az://container/runs."
    )
