"""Artifacts in an object store, with a directory of this machine as their cache and workshop.

    s3://bucket/prefix/<kind>/<key>/manifest.json   written last: what decides whether an artifact is there
    s3://bucket/prefix/locks/<kind>-<key>.lease     see storage.leases
    <cache>/<kind>/<key>/                           a copy, or what was built here and not yet uploaded

An artifact is built on this machine, as in a local home, and then uploaded, unless it is streamed: then the build
writes straight to the object store. Whoever needs the files of an artifact on this machine asks for its `path`; it is
downloaded where it is missing, whole or not at all.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from storage.artifacts import (
    ArtifactRef,
    Artifacts,
    ArtifactStore,
    Make,
    Unfinished,
    fill,
    folder_of,
    is_name,
    lines,
    ref_of,
    warn,
)
from storage.durable import flush_files, naming_a_full_disk
from storage.errors import DamagedArtifact, StorageError
from storage.leases import Leases, LeaseTimes
from storage.locks import Locks
from storage.manifests import MANIFEST, SCRATCH, differences, read_manifest, write_form
from storage.object_storage import ObjectLocation
from storage.parallel import at_once

logger = logging.getLogger("saeflow.storage")

# Tells a build that was begun from folders of other people under the same prefix, which are nobody's to delete.
_BEGUN = f"{SCRATCH}/begun"

# Copies that this process has compared with their checksums: a step asks for the same path many times.
_checked: dict[Path, str] = {}


class RemoteArtifactStore(Artifacts):
    """The artifacts under one prefix of an object store; what it offers is described at ArtifactStore."""

    streams_to_this_disk = False

    def __init__(self, uri: str, *, cache: Path | None = None, times: LeaseTimes | None = None) -> None:
        self.home_location = ObjectLocation(uri)
        self.scratch = cache or cache_of(self.uri)
        self._local = ArtifactStore(self.scratch)
        self._leases = Leases(self.home_location.child("locks"), times or LeaseTimes())

    @property
    def uri(self) -> str:
        return self.home_location.uri

    def check_writable(self) -> None:
        """Write a file and replace it, see that a second writer is refused both, and delete it."""
        place, name = self.home_location, f"locks/writable-{os.urandom(8).hex()}"
        first = place.create(name, b"1")
        created_twice = place.create(name, b"2")
        replaced = first and place.replace(name, b"3", first)
        replaced_twice = first and place.replace(name, b"4", first)
        place.remove(name)
        if created_twice or not replaced or replaced_twice:
            raise StorageError(
                f"{self.uri} does not keep to the condition of a conditional write, so two runs could not share it. "
                "Use a store that knows `If-None-Match` and `If-Match`, or a local --home."
            )
        self._local.check_writable()  # last: a home that is misspelt leaves no cache

    def location(self, ref: ArtifactRef) -> ObjectLocation:
        return self._place(ref.kind, ref.key)

    def path(self, artifact: ArtifactRef | str, key: str | None = None) -> Path:
        """The directory of a copy on this machine, which is made where a ref is given. Raises DamagedArtifact."""
        if not isinstance(artifact, ArtifactRef):
            return self._local.path(artifact, key)
        copy = self._local.path(artifact)
        if not (_checked.get(copy) == artifact.digest and copy.is_dir()):
            with Locks(self.scratch).hold(artifact.kind, artifact.key):
                if not _holds(self._local, artifact):
                    self._download(artifact, copy)
            _checked[copy] = artifact.digest
        return copy

    def find(self, kind: str, key: str) -> ArtifactRef | None:
        ref, damage = self._look(kind, key)
        if damage:
            raise DamagedArtifact(kind, key, lines(damage))
        return ref

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
        asked: dict[str, Any] = {"code_version": code_version, "spec": spec, "inputs": inputs}
        with self._leases.hold(kind, key) as lease:
            place = self._place(kind, key).guarded(lease.check)
            ref, damage = self._look(kind, key)
            if ref and not damage:
                return ref
            if damage:
                logger.warning("%s", DamagedArtifact(kind, key, lines(damage)))
                _take_apart(place, damage)
            if streamed and not resumable:
                place.remove_all(place.names())
            place.commit(_BEGUN, b"")
            if streamed:
                manifest = fill(place, lambda: make(place), kind=kind, key=key, **asked)
            else:
                built = self._local.build(kind, key, make, resumable=resumable, **asked)
                manifest = self._local.manifest(built)
                _upload(self._local.path(built), place, manifest["files"])
            lease.renew()
            place.commit_new(MANIFEST, write_form(manifest))
            place.remove_all(place.names(SCRATCH))
            found = self.find(kind, key)
        if found is None:
            raise StorageError(f"{place} was removed as soon as it was built. Run again.")
        return found

    def problems(self, kind: str, key: str) -> list[str]:
        return lines(self._look(kind, key)[1])

    def remove(self, ref: ArtifactRef) -> None:
        with self._leases.hold(ref.kind, ref.key) as lease:
            place = self.location(ref).guarded(lease.check)
            place.remove(MANIFEST)  # first: without it, what is left is no artifact
            place.remove_all(place.names())
            self._local.remove(ref)

    def unfinished(self) -> list[Unfinished]:
        begun = {(entry.kind, entry.key): entry for entry in self._local.unfinished()}
        names = self._folders("*")
        for name, is_begun in zip(names, at_once(lambda name: self._is_begun(*name), names), strict=True):
            files = self._place(*name).listing().values() if is_begun else ()
            if files:
                here = begun.get(name)
                size = sum(file["size"] for file in files) + (here.bytes if here else 0)
                modified = max([file["last_modified"] for file in files] + ([here.modified] if here else []))
                begun[name] = Unfinished(*name, size, modified, at_work=False)
        at_work = at_once(lambda name: self.at_work(*name), begun)
        return [replace(begun[name], at_work=now) for name, now in sorted(zip(begun, at_work, strict=True))]

    def at_work(self, kind: str, key: str) -> bool:
        return self._leases.is_held(kind, key)

    def discard(self, kind: str, key: str) -> None:
        with self._leases.hold(kind, key, wait=False) as lease:
            place = self._place(kind, key).guarded(lease.check)
            if self._is_begun(kind, key):
                place.remove_all(place.names())
            self._local.discard(kind, key)

    def list(
        self, kind: str = "*", unreadable: Callable[[DamagedArtifact], None] = warn
    ) -> Iterator[tuple[ArtifactRef, dict[str, Any]]]:
        def read(name: tuple[str, str]) -> dict[str, Any] | None:
            try:
                return read_manifest(self._place(*name), *name)
            except ValueError as error:
                if self._place(*name).exists(MANIFEST):
                    unreadable(DamagedArtifact(*name, [f"{MANIFEST} {error}"]))
                return None

        for manifest in at_once(read, self._folders(kind)):
            if manifest is not None:
                yield ref_of(manifest), manifest

    def _folders(self, kind: str) -> Sequence[tuple[str, str]]:
        """Kind and key of whatever is there, whole or not."""
        kinds = self.home_location.folders() if kind == "*" else [kind]
        there = [(kind, key) for kind in kinds if is_name(kind) for key in self.home_location.folders(kind)]
        return [(kind, key) for kind, key in there if is_name(key)]

    def _is_begun(self, kind: str, key: str) -> bool:
        place = self._place(kind, key)
        return place.exists(_BEGUN) and not place.exists(MANIFEST)

    def _place(self, kind: str, key: str) -> ObjectLocation:
        return self.home_location.child(folder_of(kind, key))

    def _look(self, kind: str, key: str) -> tuple[ArtifactRef | None, dict[str, str]]:
        """What is there, if its manifest can be read, and what is wrong with it: {file: problem}."""
        place = self._place(kind, key)
        try:
            manifest = read_manifest(place, kind, key)
        except ValueError as error:
            return None, {MANIFEST: str(error)} if place.exists(MANIFEST) else {}
        return ref_of(manifest), differences(place, manifest, read_up_to=0)

    def _download(self, ref: ArtifactRef, copy: Path) -> None:
        """Put a copy of an artifact at `copy`, once all of it is on the disk and is what its manifest lists."""
        self.verify(ref)
        place, under_way = self.location(ref), copy.with_name(f"{ref.key}.download")
        shutil.rmtree(under_way, ignore_errors=True)

        def download(file: dict[str, Any]) -> None:
            target = under_way / file["name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            if any(place.download(file["name"], target) == file["sha256"] for _ in range(2)):
                return
            # Wrong twice: it is wrong in the store. Without the file the next run sees the damage at once.
            place.remove(file["name"])
            raise DamagedArtifact(ref.kind, ref.key, [f"{file['name']} does not have the recorded sha256"])

        manifest = self.manifest(ref)
        names = [file["name"] for file in manifest["files"]]
        with naming_a_full_disk(under_way, sum(file["size"] for file in manifest["files"])):
            under_way.mkdir(parents=True)
            at_once(download, manifest["files"])
            (under_way / MANIFEST).write_bytes(write_form(manifest))
            flush_files(under_way, [*names, MANIFEST])
        shutil.rmtree(copy, ignore_errors=True)
        os.replace(under_way, copy)


def cache_of(uri: str) -> Path:
    """The directory of this machine that belongs to a remote home: $SAEFLOW_CACHE or ~/.cache/saeflow/homes, and a
    name of its own for every home."""
    root = os.environ.get("SAEFLOW_CACHE") or Path.home() / ".cache" / "saeflow" / "homes"
    # The same name at another endpoint is another home.
    told = f"{uri}\n{os.environ.get('AWS_ENDPOINT_URL', '')}"
    return Path(root) / f"{urlsplit(uri).netloc}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _upload(directory: Path, place: ObjectLocation, files: list[dict[str, Any]]) -> None:
    """Have exactly these files at `place`; what an interrupted upload brought there is not sent again."""
    present = place.sizes()

    def upload(file: dict[str, Any]) -> None:
        name = file["name"]
        if present.get(name) != file["size"] or place.uploaded_sha256(name) != file["sha256"]:
            place.upload(name, directory / name, file["sha256"])

    at_once(upload, files)
    place.remove_all(present.keys() - {_BEGUN, *(file["name"] for file in files)})


def _take_apart(place: ObjectLocation, damage: Mapping[str, str]) -> None:
    """Turn a damaged artifact back into an unfinished build that holds only its undamaged files."""
    # Without a manifest no file can be trusted. Its end comes last: until then this is still a damaged artifact.
    place.remove_all(place.names() if MANIFEST in damage else damage)
    place.remove(MANIFEST)


def _holds(store: ArtifactStore, ref: ArtifactRef) -> bool:
    try:
        return store.find(ref.kind, ref.key) == ref
    except DamagedArtifact:
        return False
