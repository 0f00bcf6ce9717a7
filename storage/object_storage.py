"""A Location in an object store: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.

A write is one request, whole or not at all, and durable when it was answered. What only one of several processes may
write is written by a conditional request: "if nothing is there", "if what is there is still what I saw".
"""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from storage.errors import StorageError
from storage.locations import Location
from storage.object_client import answered, client, naming_errors
from storage.parallel import at_once

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode, PutResult, UpdateVersion
    from obstore.store import ObjectStore
    from zarr.abc.store import Store

# Above this a file goes up in pieces, each with retries of its own. Pieces of an upload that was killed are in no
# listing, and cost until the bucket's rule for incomplete uploads deletes them: so only what is large goes that way.
_PIECE = 64 << 20

# Up to this size, an upload that takes long has stalled.
_SMALL = 1 << 20

# Who wrote an object, kept with it: an answer that was lost does not leave a writer in doubt.
_WRITER = "writer"
_SHA256 = "sha256"


class Version(NamedTuple):
    """Tells what an object holds from what it held before: a conditional write compares one or the other."""

    e_tag: str | None
    """What S3 and Azure compare."""
    version: str | None
    """What Google compares, where it is called generation."""


class Versioned(NamedTuple):
    """What an object holds, and the version that it has as long as it holds that."""

    data: bytes
    version: Version


class ObjectLocation:
    """A prefix in an object store. `guard` is called before anything is changed there, and may raise."""

    # A request takes tens of milliseconds, whatever it is for.
    parallel_reads = 16

    def __init__(self, uri: str, guard: Callable[[], None] = lambda: None) -> None:
        self._uri = uri.rstrip("/")
        parts = urlsplit(self._uri)
        self.bucket = f"{parts.scheme}://{parts.netloc}"
        self._prefix = unquote(parts.path).strip("/")
        self.guard = guard

    def __str__(self) -> str:
        return self._uri

    @property
    def uri(self) -> str:
        return self._uri

    def read(self, name: str) -> bytes:
        with self.naming_errors(name):
            return answered(lambda: self._client().get(self.key(name)).bytes().to_bytes())

    def commit(self, name: str, data: bytes) -> None:
        self.guard()
        put = partial(self._client(for_data=len(data) > _SMALL).put, self.key(name), data, use_multipart=False)
        with self.naming_errors(name):
            answered(put)

    def commit_new(self, name: str, data: bytes) -> bool:
        for pause in (0.1, 0.5, 2.0, 5.0):
            if self.create(name, data) is not None:
                return True
            if self.exists(name):
                return False
            time.sleep(pause)
        raise StorageError(f"{self._uri}/{name} cannot be written: the store reports a conflict again and again.")

    def copy_from(self, source: Location, names: Iterable[str]) -> None:
        def copy(name: str) -> None:
            if isinstance(source, ObjectLocation) and source.bucket == self.bucket:
                there = source.key(name)
                self.guard()
                with source.naming_errors(name):
                    answered(lambda: self._client().copy(there, self.key(name)))
            else:
                self.commit(name, source.read(name))

        at_once(copy, names)

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        with self.naming_errors(name):
            return answered(lambda: self._client().head(self.key(name)))["size"]

    def names(self, prefix: str = "") -> list[str]:
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return {name: entry["size"] for name, entry in self.listing(prefix).items()}

    def listing(self, prefix: str = "") -> "dict[str, ObjectMeta]":
        """What the store tells of all files under the folder `prefix`, by name: size, last_modified, e_tag."""
        start = len(self.key(""))
        with self.naming_errors(prefix):
            objects = answered(lambda: self._client().list(self.key(prefix)).collect())
        return {entry["path"][start:]: entry for entry in objects}

    def folders(self, prefix: str = "") -> list[str]:
        """The folders right under the folder `prefix`, sorted."""
        with self.naming_errors(prefix):
            listed = answered(lambda: self._client().list_with_delimiter(self.key(prefix)))
        return sorted(path.rpartition("/")[2] for path in listed["common_prefixes"])

    def remove(self, name: str) -> None:
        self.guard()
        # S3 deletes what is not there, others refuse.
        with suppress(FileNotFoundError), self.naming_errors(name):
            answered(lambda: self._client().delete(self.key(name)))

    def remove_all(self, names: Iterable[str]) -> None:
        """Delete many files, a thousand a request where the store can do that."""
        names = list(names)
        for start in range(0, len(names), 1000):
            batch = names[start : start + 1000]
            self.guard()
            with self.naming_errors(batch[0]):
                delete = partial(self._client().delete, [self.key(name) for name in batch])
                try:
                    answered(delete)
                except FileNotFoundError:
                    at_once(self.remove, batch)

    def sync(self, names: Iterable[str]) -> None:
        """Nothing to do: what an object store has answered for is durable."""

    def naming_a_full_disk(self, needed: int | None) -> AbstractContextManager[None]:
        return nullcontext()

    def child(self, name: str) -> "ObjectLocation":
        return ObjectLocation(f"{self._uri}/{quote(name)}", self.guard)

    def guarded(self, guard: Callable[[], None]) -> "ObjectLocation":
        """This place for a writer that may lose the right to write there."""
        return ObjectLocation(self._uri, guard)

    def zarr_store(self) -> "Store":
        from storage.object_zarr import ObjectZarrStore

        return ObjectZarrStore(self)

    def create(self, name: str, data: bytes) -> Version | None:
        """Write a file where none is; its version, or None if there is or was one a moment ago."""
        return self._put_if(name, data, "create")

    def replace(self, name: str, data: bytes, seen: Version) -> Version | None:
        """Write a file in place of the one that was `seen`; its version, or None if it is another one by now."""
        mode: UpdateVersion = {}
        if seen.e_tag is not None:  # obstore takes no None
            mode["e_tag"] = seen.e_tag
        if seen.version is not None:
            mode["version"] = seen.version
        return self._put_if(name, data, mode)

    def read_versioned(self, name: str) -> Versioned | None:
        """What is there now, None if nothing is."""

        def read() -> Versioned:
            found = self._client().get(self.key(name))
            return Versioned(found.bytes().to_bytes(), _version(found.meta))

        with suppress(FileNotFoundError), self.naming_errors(name):
            return answered(read)

    def upload(self, name: str, file: Path, sha256: str) -> None:
        """Write a local file here, and its checksum with it."""
        self.guard()
        put = partial(
            self._client(for_data=True).put,
            self.key(name),
            file,
            attributes={_SHA256: sha256},
            use_multipart=file.stat().st_size > _PIECE,
            chunk_size=_PIECE // 4,
            max_concurrency=4,
        )
        with self.naming_errors(name):
            answered(put)

    def uploaded_sha256(self, name: str) -> str | None:
        """The checksum that a file was uploaded with, if it was."""
        with self.naming_errors(name):
            found = answered(lambda: self._client().get(self.key(name), options={"head": True}))
        return found.attributes.get(_SHA256)

    def download(self, name: str, file: Path) -> str:
        """Write a file of this place to a local one; returns the sha256 of what was received."""

        def download() -> str:
            with file.open("wb") as local:
                return self._stream(name, local.write)

        with self.naming_errors(name):
            return answered(download)

    def sha256(self, name: str) -> str:
        with self.naming_errors(name):
            return answered(lambda: self._stream(name, len))

    def key(self, name: str) -> str:
        """The name of a file in its bucket."""
        return f"{self._prefix}/{name}" if self._prefix else name

    def naming_errors(self, name: str) -> AbstractContextManager[None]:
        """Raise StorageError or FileNotFoundError, with the URI of `name`, for what the store says of it."""
        return naming_errors(f"{self._uri}/{name}")

    def _stream(self, name: str, take: Callable[[bytes], object]) -> str:
        """Hand over a file piece by piece; returns its sha256."""
        digest = hashlib.sha256()
        for piece in self._client().get(self.key(name)).stream():
            take(piece)
            digest.update(piece)
        return digest.hexdigest()

    def _client(self, *, for_data: bool = False) -> "ObjectStore":
        return client(self._uri, for_data=for_data)

    def _put_if(self, name: str, data: bytes, mode: "PutMode") -> Version | None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        self.guard()
        writer, key = uuid.uuid4().hex, self.key(name)

        def put() -> Version | None:
            try:
                return _version(self._client().put(key, data, mode=mode, attributes={_WRITER: writer}))
            except (AlreadyExistsError, PreconditionError):
                # Also the answer to a second try when the first one got through and its answer did not.
                try:
                    there = self._client().get(key, options={"head": True})
                except FileNotFoundError:  # what was in the way is gone by now
                    return None
                return _version(there.meta) if there.attributes.get(_WRITER) == writer else None

        with self.naming_errors(name):
            return answered(put)


def _version(told: "ObjectMeta | PutResult") -> Version:
    return Version(told["e_tag"], told["version"])
