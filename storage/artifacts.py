"""Artifacts: directories named `kind/key` that are built once, checked, and found again.

This is a home on this machine; one in an object store is in storage.remote_artifacts and offers the same.

The key says what was asked for: a hash of kind, code version, spec and the digests of the inputs. The digest
says what came out: a hash of the files. The rest of saeflow exchanges nothing but an `ArtifactRef`.

    home/<kind>/<key>/manifest.json     written last; see storage.manifests
    home/<kind>/<key>.partial/          a build under way, or one that was killed and can go on
    home/locks/<kind>-<key>.lock        held while building; see storage.locks
"""

import hashlib
import logging
import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel, ConfigDict

from storage.durable import TEMPORARY, flush_files, write_whole
from storage.errors import DamagedArtifact, StorageError
from storage.locations import LocalDirectory, Location, is_remote, local_path
from storage.locks import Locks
from storage.manifests import MANIFEST, SCRATCH, Filled, describe, find_damage, read_manifest, write_form
from storage.records import canonical_json

if TYPE_CHECKING:
    from storage.remote_artifacts import RemoteArtifactStore

logger = logging.getLogger("saeflow.storage")

_NAME = re.compile(r"[A-Za-z0-9_-]+")

AnyStore: TypeAlias = "ArtifactStore | RemoteArtifactStore"

# Fills a directory, or, when streamed, a Location.
Make = Callable[[Any], dict[str, Any] | Filled | None]


def warn(damage: DamagedArtifact) -> None:
    logger.warning("%s", damage)


class ArtifactRef(BaseModel):
    """All that tasks exchange: which artifact, and which bytes it had."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """What it is: tokens, activations, dictionary, …"""
    key: str
    """What it was asked to be (see `content_key`)."""
    digest: str
    """What it is: sha256 over its file list."""

    def __str__(self) -> str:
        return f"{self.kind}/{self.key}"


@dataclass(frozen=True)
class Unfinished:
    """A build that was begun and did not end: it is under way, or it was killed and can go on."""

    kind: str
    key: str
    bytes: int
    modified: datetime
    """When one of its files last changed."""
    at_work: bool
    """Whether a process is building it now."""

    def __str__(self) -> str:
        return f"{self.kind}/{self.key}"


def content_key(kind: str, code_version: str, spec: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The key of what `kind` at `code_version` makes of `spec` and `inputs` ({name: digest}): 20 hex digits.

    Raises StorageError when the spec holds anything but plain, finite JSON: a key must never depend on how
    some object prints itself.
    """
    question = {"kind": kind, "code_version": code_version, "spec": dict(spec), "inputs": dict(inputs)}
    try:
        return hashlib.sha256(canonical_json(question)).hexdigest()[:20]
    except (TypeError, ValueError) as error:
        raise StorageError(f"the spec of a {kind} cannot be a key, it is not plain JSON: {error}") from error


class Artifacts(ABC):
    """What a home on this machine and one in an object store do alike."""

    @abstractmethod
    def location(self, ref: ArtifactRef) -> Location:
        """Where the files of an artifact are: for what is read piece by piece."""

    @abstractmethod
    def find(self, kind: str, key: str) -> ArtifactRef | None:
        """The artifact if it is there and whole, None if it is not there. Raises DamagedArtifact."""

    def check(self, ref: ArtifactRef, on_bytes: Callable[[int], None]) -> dict[str, str]:
        """Read every byte of an artifact, however large: {file: problem}, empty when it is whole.

        `on_bytes` is told after each file how many bytes were read.
        """
        return find_damage(self.location(ref), ref.kind, ref.key, on_bytes)

    def verify(self, ref: ArtifactRef) -> None:
        """Raise DamagedArtifact unless exactly the artifact `ref` is there, whole."""
        found = self.find(ref.kind, ref.key)
        if found is None:
            raise DamagedArtifact(ref.kind, ref.key, [f"{self.location(ref)} is missing"])
        if found != ref:
            raise DamagedArtifact(ref.kind, ref.key, [f"its digest is no longer {ref.digest}"])

    def manifest(self, ref: ArtifactRef) -> dict[str, Any]:
        """The manifest as a dict. Raises DamagedArtifact when it cannot be read."""
        try:
            return read_manifest(self.location(ref), ref.kind, ref.key)
        except ValueError as error:
            raise DamagedArtifact(ref.kind, ref.key, [f"{MANIFEST} {error}"]) from error


class ArtifactStore(Artifacts):
    """The artifacts under one home directory."""

    streams_to_this_disk = True
    """Whether what a streamed build writes takes room on the disk of this machine."""

    def __init__(self, home: str | Path) -> None:
        self.home = local_path(home)

    @staticmethod
    def from_environment() -> AnyStore:
        """The store at $SAEFLOW_HOME, or at ./runs."""
        home = os.environ.get("SAEFLOW_HOME") or "runs"
        if is_remote(home):
            from storage.remote_artifacts import RemoteArtifactStore  # which uses this class

            return RemoteArtifactStore(home)
        return ArtifactStore(home)

    @property
    def uri(self) -> str:
        """What a person, or another process, calls this home."""
        return str(self.home)

    @property
    def scratch(self) -> Path:
        """A directory of this machine for logs, records and work files that belong to this home."""
        return self.home

    @property
    def home_location(self) -> Location:
        """For files beside the artifacts."""
        return LocalDirectory(self.home)

    def check_writable(self) -> None:
        """Write a file and delete it. Raises StorageError when that cannot be done."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.home):
                pass
        except OSError as error:
            raise StorageError(
                f"the home directory {self.home} cannot be written to ({error.strerror}). Name another with --home or "
                "$SAEFLOW_HOME."
            ) from error

    def path(self, artifact: ArtifactRef | str, key: str | None = None) -> Path:
        """The directory of an artifact, given as a ref or as kind and key. It need not exist."""
        kind, key = (artifact.kind, artifact.key) if isinstance(artifact, ArtifactRef) else (artifact, key)
        return self.home / folder_of(kind, key)

    def location(self, ref: ArtifactRef) -> Location:
        return LocalDirectory(self.path(ref))

    def find(self, kind: str, key: str) -> ArtifactRef | None:
        if not self.path(kind, key).is_dir():
            return None
        try:
            problems = self.problems(kind, key)
            if not problems:
                return self._ref(kind, key)
        except (FileNotFoundError, ValueError) as error:  # another process is taking it apart to repair it
            problems = [str(error)]
        raise DamagedArtifact(kind, key, problems)

    def build(
        self,
        kind: str,
        key: str,
        make: Make,
        *,
        code_version: str,
        spec: Mapping[str, Any],
        inputs: Mapping[str, ArtifactRef],
        resumable: bool,
        streamed: bool = False,
    ) -> ArtifactRef:
        """Find the artifact, or make it; whoever asks for the same one meanwhile waits and then finds it.

        `make(directory)` writes the files and returns notes for the manifest (counts, warnings). When
        `resumable`, it may meet the files of an earlier attempt and should go on from them; what it leaves in
        the folder `scratch` waits for the next attempt and is gone once the artifact is whole. An artifact that
        is damaged is taken apart first: the damaged files go, and a resumable `make` repairs what is missing.
        Nothing shows under the artifact's name before it is whole; what a failing `make` leaves stays in
        `.partial`. When `streamed`, `make` is given a Location, which need not be on this machine; it may return
        `Filled`, so that files whose checksums it knows are not read again.

        Raises StorageError when the home cannot be written, OutOfSpace when it is full.
        """
        final = self.path(kind, key)
        partial = final.with_name(f"{key}.partial")
        with self._locks.hold(kind, key):
            if final.is_dir():
                damage = find_damage(final, kind, key)
                if not damage:
                    return self._ref(kind, key)
                logger.warning("%s", DamagedArtifact(kind, key, lines(damage)))
                _take_apart(final, partial, damage)
            if not find_damage(partial, kind, key):  # an attempt that was killed just before the rename
                return self._publish(partial, final)
            if not resumable and partial.exists():
                shutil.rmtree(partial)
            partial.mkdir(parents=True, exist_ok=True)
            (partial / MANIFEST).unlink(missing_ok=True)
            for stray in list(partial.rglob(f"*{TEMPORARY}")):  # of a process that was killed while it wrote
                stray.unlink(missing_ok=True)

            place = LocalDirectory(partial)
            manifest = fill(
                place,
                lambda: make(place if streamed else partial),
                kind=kind,
                key=key,
                code_version=code_version,
                spec=spec,
                inputs=inputs,
            )
            flush_files(partial, (file["name"] for file in manifest["files"]))
            write_whole(partial / MANIFEST, write_form(manifest))
            return self._publish(partial, final)

    def problems(self, kind: str, key: str) -> list[str]:
        """What is wrong with an artifact that is there, one line for each file; empty when it is whole."""
        return lines(find_damage(self.path(kind, key), kind, key))

    def remove(self, ref: ArtifactRef) -> None:
        """Delete an artifact, and what a killed build left of it."""
        final = self.path(ref)
        partial = final.with_name(f"{ref.key}.partial")
        with self._locks.hold(ref.kind, ref.key):
            if partial.exists():
                shutil.rmtree(partial)
            if final.exists():
                os.replace(final, partial)  # killed from here on, it leaves an unfinished build and no damaged artifact
                shutil.rmtree(partial)
            self._locks.drop(ref.kind, ref.key)

    def unfinished(self) -> list[Unfinished]:
        """Every build that was begun and not finished, in order."""
        found = []
        for directory in sorted(self.home.glob("*/*.partial")):
            kind, key = directory.parent.name, directory.stem
            if not directory.is_dir() or not _NAME.fullmatch(key):
                continue
            try:
                stats = [path.stat() for path in (directory, *directory.rglob("*"))]
            except FileNotFoundError:  # it ended just now, or replaced a file
                stats = [directory.stat()] if directory.exists() else []
            if stats:
                size = sum(stat.st_size for stat in stats if S_ISREG(stat.st_mode))
                modified = datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC)
                found.append(Unfinished(kind, key, size, modified, self.at_work(kind, key)))
        return found

    def at_work(self, kind: str, key: str) -> bool:
        """Whether a process is building, repairing or removing this artifact now."""
        return self._locks.is_held(kind, key)

    def discard(self, kind: str, key: str) -> None:
        """Delete what an unfinished build left. Raises StorageError while a process is at work on it."""
        final = self.path(kind, key)
        partial = final.with_name(f"{key}.partial")
        with self._locks.hold(kind, key, wait=False):
            if partial.exists():
                shutil.rmtree(partial)
            if not final.exists():
                self._locks.drop(kind, key)

    def list(
        self, kind: str = "*", unreadable: Callable[[DamagedArtifact], None] = warn
    ) -> Iterator[tuple[ArtifactRef, dict[str, Any]]]:
        """Every artifact, of one kind or of all, with its manifest, in order.

        One whose manifest cannot be read is left out, and `unreadable` is told; by default it is logged.
        """
        for directory in sorted(self.home.glob(f"{kind}/*")):
            kind, key = directory.parent.name, directory.name
            # Locks and Prefect's records are files; `.partial` has a dot.
            if not directory.is_dir() or not _NAME.fullmatch(key):
                continue
            try:
                manifest = read_manifest(directory, kind, key)
            except ValueError as error:
                unreadable(DamagedArtifact(kind, key, [f"{MANIFEST} {error}"]))
                continue
            yield ref_of(manifest), manifest

    def _publish(self, partial: Path, final: Path) -> ArtifactRef:
        """Give a whole build its name."""
        if (partial / SCRATCH).exists():
            shutil.rmtree(partial / SCRATCH)
        os.replace(partial, final)
        kind, key = final.parent.name, final.name
        flush_files(self.home, [f"{kind}/{key}"])
        return self._ref(kind, key)

    def _ref(self, kind: str, key: str) -> ArtifactRef:
        return ref_of(read_manifest(self.path(kind, key), kind, key))

    @property
    def _locks(self) -> Locks:
        return Locks(self.home)


def is_name(text: str) -> bool:
    """Whether an artifact's kind or key may be called so."""
    return _NAME.fullmatch(text) is not None


def folder_of(kind: str, key: str | None) -> str:
    """`kind/key`. Raises StorageError for names that are no artifact's."""
    for name in (kind, key):
        if name is None or not is_name(name):
            raise StorageError(f"{kind}/{key} names no artifact: use letters, digits, '-' and '_'")
    return f"{kind}/{key}"


def fill(
    place: Location,
    make: Callable[[], dict[str, Any] | Filled | None],
    *,
    kind: str,
    key: str,
    code_version: str,
    spec: Mapping[str, Any],
    inputs: Mapping[str, ArtifactRef],
) -> dict[str, Any]:
    """Run a build that writes to `place`, and return the manifest of what is there then."""
    started = time.monotonic()
    with place.naming_a_full_disk(needed=None):
        told = make() or {}
    if place.exists(MANIFEST):
        raise StorageError(f"{place}/{MANIFEST} was written by the build itself; use another name or a folder")
    return describe(
        place,
        kind=kind,
        key=key,
        code_version=code_version,
        spec=dict(spec),
        inputs={name: ref.model_dump() for name, ref in inputs.items()},
        filled=told if isinstance(told, Filled) else Filled(told, {}),
        seconds=time.monotonic() - started,
    )


def _take_apart(final: Path, partial: Path, damage: dict[str, str]) -> None:
    """Turn a damaged artifact back into an unfinished build that holds only its undamaged files."""
    if partial.exists():
        shutil.rmtree(partial)
    if MANIFEST in damage:  # no file can be trusted
        shutil.rmtree(final)
        return
    # Before the rename: killed in between, this is still a damaged artifact, not a build that goes on.
    for name in damage:
        (final / name).unlink(missing_ok=True)
    os.replace(final, partial)


def ref_of(manifest: Mapping[str, Any]) -> ArtifactRef:
    """The artifact that a manifest is of."""
    return ArtifactRef(kind=manifest["kind"], key=manifest["key"], digest=manifest["digest"])


def lines(damage: dict[str, str]) -> list[str]:
    return [f"{name} {problem}" for name, problem in damage.items()]
