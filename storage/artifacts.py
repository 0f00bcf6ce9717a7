"""Artifacts: directories named `kind/key` that are built once, checked, and found again.

The key says what was asked for: a hash of kind, code version, spec and the digests of the inputs. The digest
says what came out: a hash of the files. The rest of saeflow exchanges nothing but an `ArtifactRef`.

    home/<kind>/<key>/manifest.json     written last; see storage.manifests
    home/<kind>/<key>.partial/          a build under way, or one that was killed and can go on
    home/locks/<kind>-<key>.lock        held (flock) while building; the kernel frees it with the process
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.durable import flush_files, naming_a_full_disk, write_whole
from storage.errors import DamagedArtifact, StorageError
from storage.locations import local_path
from storage.manifests import MANIFEST, SCRATCH, describe, find_damage, read_manifest, write_form
from storage.records import canonical_json

logger = logging.getLogger("saeflow.storage")

_NAME = re.compile(r"[A-Za-z0-9_-]+")


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


class ArtifactStore:
    """The artifacts under one home directory."""

    def __init__(self, home: str | Path) -> None:
        self.home = local_path(home)

    @classmethod
    def from_environment(cls) -> "ArtifactStore":
        """The store at $SAEFLOW_HOME, or at ./runs."""
        return cls(os.environ.get("SAEFLOW_HOME") or "runs")

    def path(self, artifact: ArtifactRef | str, key: str | None = None) -> Path:
        """The directory of an artifact, given as a ref or as kind and key. It need not exist."""
        kind, key = (artifact.kind, artifact.key) if isinstance(artifact, ArtifactRef) else (artifact, key)
        for name in (kind, key):
            if name is None or not _NAME.fullmatch(name):
                raise StorageError(f"{kind}/{key} names no artifact: use letters, digits, '-' and '_'")
        return self.home / kind / str(key)

    def find(self, kind: str, key: str) -> ArtifactRef | None:
        """The artifact if it is there and whole, None if it is not there. Raises DamagedArtifact."""
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
        make: Callable[[Path], dict[str, Any] | None],
        *,
        code_version: str,
        spec: Mapping[str, Any],
        inputs: Mapping[str, ArtifactRef],
        resumable: bool,
    ) -> ArtifactRef:
        """Find the artifact, or make it; whoever asks for the same one meanwhile waits and then finds it.

        `make(directory)` writes the files and returns notes for the manifest (counts, warnings). When
        `resumable`, it may meet the files of an earlier attempt and should go on from them; what it leaves in
        the folder `scratch` waits for the next attempt and is gone once the artifact is whole. An artifact that
        is damaged is taken apart first: the damaged files go, and a resumable `make` repairs what is missing.
        Nothing shows under the artifact's name before it is whole; what a failing `make` leaves stays in
        `.partial`.

        Raises StorageError when the home cannot be written, OutOfSpace when it is full.
        """
        with self._lock(kind, key):
            final = self.path(kind, key)
            partial = final.with_name(f"{key}.partial")
            if final.is_dir():
                damage = find_damage(final, kind, key)
                if not damage:
                    return self._ref(kind, key)
                logger.warning("%s", DamagedArtifact(kind, key, _lines(damage)))
                _take_apart(final, partial, damage)
            if not find_damage(partial, kind, key):  # an attempt that was killed just before the rename
                return self._publish(partial, final)
            if not resumable and partial.exists():
                shutil.rmtree(partial)
            partial.mkdir(parents=True, exist_ok=True)
            (partial / MANIFEST).unlink(missing_ok=True)

            started = time.monotonic()
            with naming_a_full_disk(partial, needed=None):
                notes = make(partial) or {}
            if (partial / MANIFEST).exists():
                raise StorageError(
                    f"{partial / MANIFEST} was written by the build itself; use another name or a folder"
                )
            manifest = describe(
                partial,
                kind=kind,
                key=key,
                code_version=code_version,
                spec=dict(spec),
                inputs={name: ref.model_dump() for name, ref in inputs.items()},
                notes=notes,
                seconds=time.monotonic() - started,
            )
            flush_files(partial, (file["name"] for file in manifest["files"]))
            write_whole(partial / MANIFEST, write_form(manifest))
            return self._publish(partial, final)

    def problems(self, kind: str, key: str) -> list[str]:
        """What is wrong with an artifact that is there, one line for each file; empty when it is whole."""
        return _lines(find_damage(self.path(kind, key), kind, key))

    def verify(self, ref: ArtifactRef) -> None:
        """Raise DamagedArtifact unless exactly the artifact `ref` is there, whole."""
        if not self.path(ref).is_dir():
            raise DamagedArtifact(ref.kind, ref.key, [f"{self.path(ref)} is missing"])
        found = self.find(ref.kind, ref.key)
        if found != ref:
            raise DamagedArtifact(ref.kind, ref.key, [f"its digest is no longer {ref.digest}"])

    def manifest(self, ref: ArtifactRef) -> dict[str, Any]:
        """The manifest as a dict. Raises DamagedArtifact when it cannot be read."""
        try:
            return read_manifest(self.path(ref), ref.kind, ref.key)
        except ValueError as error:
            raise DamagedArtifact(ref.kind, ref.key, [f"{MANIFEST} {error}"]) from error

    def remove(self, ref: ArtifactRef) -> None:
        """Delete an artifact, and what a killed build left of it."""
        with self._lock(ref.kind, ref.key):
            final = self.path(ref)
            for directory in (final, final.with_name(f"{ref.key}.partial")):
                if directory.exists():
                    shutil.rmtree(directory)

    def list(self) -> Iterator[tuple[ArtifactRef, dict[str, Any]]]:
        """Every artifact with its manifest, in order; an unreadable manifest is logged and left out."""
        for directory in sorted(self.home.glob("*/*")):
            kind, key = directory.parent.name, directory.name
            # Locks and Prefect's records are files; `.partial` has a dot.
            if not directory.is_dir() or not _NAME.fullmatch(key):
                continue
            try:
                manifest = read_manifest(directory, kind, key)
            except ValueError as error:
                logger.warning("%s", DamagedArtifact(kind, key, [f"{MANIFEST} {error}"]))
                continue
            yield ArtifactRef(kind=kind, key=key, digest=manifest["digest"]), manifest

    def _publish(self, partial: Path, final: Path) -> ArtifactRef:
        """Give a whole build its name."""
        if (partial / SCRATCH).exists():
            shutil.rmtree(partial / SCRATCH)
        os.replace(partial, final)
        kind, key = final.parent.name, final.name
        flush_files(self.home, [f"{kind}/{key}"])
        return self._ref(kind, key)

    def _ref(self, kind: str, key: str) -> ArtifactRef:
        manifest = read_manifest(self.path(kind, key), kind, key)
        return ArtifactRef(kind=kind, key=key, digest=manifest["digest"])

    @contextmanager
    def _lock(self, kind: str, key: str) -> Iterator[None]:
        self.path(kind, key)  # refuses names that are no artifact's
        path = self.home / "locks" / f"{kind}-{key}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError as error:
            raise StorageError(
                f"{self.home} cannot be written: {error.strerror}. Choose another home with $SAEFLOW_HOME."
            ) from error
        with file:  # closing lets go of the lock
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("waiting for another process that builds %s/%s", kind, key)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


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


def _lines(damage: dict[str, str]) -> list[str]:
    return [f"{name} {problem}" for name, problem in damage.items()]
