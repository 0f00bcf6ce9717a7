"""The manifest: what an artifact directory holds, and where it came from.

`manifest.json` is written last. It lists every other file with its size and sha256, so that a directory can
be compared with it, and what the artifact was made from, so that a person can tell how it came to be.
"""

import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from storage.checkout import checkout
from storage.errors import StorageError
from storage.locations import Location, open_location
from storage.parallel import read_ahead
from storage.records import canonical_json, pack_readable_record, unpack_record

if TYPE_CHECKING:
    from storage.commits import FileRecord  # with zarr behind it, for which looking up an artifact must not wait

MANIFEST = "manifest.json"
# What a build keeps here is there for its next attempt after a kill, and no part of the artifact.
SCRATCH = "scratch"
FORMAT_VERSION = 1

# Hashing runs at about 1 GB/s a core: up to here a full check costs seconds, beyond it every start of a run
# would wait minutes. Larger artifacts are checked by size here, and chunk by chunk (crc32c) when read.
FULL_CHECK_BYTES = 8 << 30

Checksum = TypeVar("Checksum")
_PACKAGES = ("torch", "numpy", "zarr", "saeflow")


class Filled(NamedTuple):
    """What a build tells of the files it wrote."""

    notes: Mapping[str, Any]
    """For the manifest: counts, warnings."""
    files: "Mapping[str, FileRecord]"
    """What is known of files by their names: these are not read again for their checksums."""


def describe(
    place: Path | Location,
    *,
    kind: str,
    key: str,
    code_version: str,
    spec: Mapping[str, Any],
    inputs: Mapping[str, Any],
    filled: Filled,
    seconds: float,
) -> dict[str, Any]:
    """The manifest of the files now in `place`; `seconds` is the wall time of its build."""
    files = _list_files(open_location(place), filled.files)
    return {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "key": key,
        "code_version": code_version,
        "spec": spec,
        "inputs": inputs,
        "files": files,
        "digest": digest_of(files),
        "notes": dict(filled.notes),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "checkout": checkout(),
        "created": datetime.now(UTC).isoformat(),
        "seconds": round(seconds, 3),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
    }


def digest_of(files: list[dict[str, Any]]) -> str:
    """sha256 over the file list alone: the same bytes have the same digest wherever they were made."""
    return hashlib.sha256(canonical_json(files)).hexdigest()


def write_form(manifest: dict[str, Any]) -> bytes:
    """The bytes of `manifest.json`. Raises StorageError when spec or notes are not JSON."""
    try:
        return pack_readable_record(manifest)
    except (TypeError, ValueError) as error:
        name = f"{manifest['kind']}/{manifest['key']}"
        raise StorageError(
            f"the spec or the notes of {name} are not plain JSON: {error}. "
            "Use strings, finite numbers, booleans, null, lists and objects."
        ) from error


def read_manifest(place: Path | Location, kind: str, key: str) -> dict[str, Any]:
    """The manifest of `place`. Raises ValueError saying what is wrong with it."""
    try:
        data = open_location(place).read(MANIFEST)
    except FileNotFoundError:
        raise ValueError("is missing") from None
    try:
        manifest = unpack_record(data)
    except ValueError as error:
        raise ValueError(f"cannot be read ({error})") from error
    if manifest["format_version"] != FORMAT_VERSION:
        raise ValueError(f"has the unknown format version {manifest['format_version']}")
    if (manifest["kind"], manifest["key"]) != (kind, key):
        raise ValueError(f"belongs to {manifest['kind']}/{manifest['key']}")
    if manifest["digest"] != digest_of(manifest["files"]):
        raise ValueError("holds a digest that is not the one of its files")
    return manifest


def find_damage(
    place: Path | Location, kind: str, key: str, on_bytes: Callable[[int], None] | None = None
) -> dict[str, str]:
    """What is wrong with the files of `place`: {file: problem}, empty when it is whole.

    A manifest that cannot be used is the only problem named: without its list no file can be judged. With
    `on_bytes` every byte is read, however many there are, and it is told after each file how many that were; what
    the disk refuses to give back is a problem too.
    """
    try:
        manifest = read_manifest(place, kind, key)
    except ValueError as error:
        return {MANIFEST: str(error)}
    return differences(open_location(place), manifest, on_bytes)


def differences(
    location: Location,
    manifest: Mapping[str, Any],
    on_bytes: Callable[[int], None] | None = None,
    read_up_to: int = FULL_CHECK_BYTES,
) -> dict[str, str]:
    """How the files that are there differ from those that a manifest lists; see `find_damage`.

    Without `on_bytes` they are read only where together they have at most `read_up_to` bytes.
    """
    recorded = {file["name"]: file for file in manifest["files"]}
    present = _sizes(location)
    damage = dict.fromkeys(present.keys() - recorded.keys(), "is not in the manifest")
    damage |= dict.fromkeys(recorded.keys() - present.keys(), "is missing")
    for name in recorded.keys() & present.keys():
        if present[name] != recorded[name]["size"]:
            damage[name] = f"has {present[name]} bytes instead of {recorded[name]['size']}"
    if on_bytes is not None or sum(file["size"] for file in recorded.values()) <= read_up_to:
        candidates = sorted(recorded.keys() - damage.keys())
        read = location.sha256 if on_bytes is None else _sha256_or_problem(location)
        for name, checksum in zip(candidates, _checksums(location, candidates, read), strict=True):
            if isinstance(checksum, OSError):
                damage[name] = f"cannot be read ({checksum.strerror or checksum})"
            elif checksum != recorded[name]["sha256"]:
                damage[name] = "does not have the recorded sha256"
            if on_bytes is not None:
                on_bytes(present[name])
    return dict(sorted(damage.items()))


def _list_files(location: Location, known: "Mapping[str, FileRecord]") -> list[dict[str, Any]]:
    sizes = _sizes(location)
    checksums = {name: record.sha256 for name, record in known.items() if sizes.get(name) == record.size}
    unknown = sorted(sizes.keys() - checksums.keys())
    checksums |= zip(unknown, _checksums(location, unknown, location.sha256), strict=True)
    return [{"name": name, "size": sizes[name], "sha256": checksums[name]} for name in sorted(sizes)]


def _sizes(location: Location) -> dict[str, int]:
    sizes = location.sizes()
    return {name: size for name, size in sizes.items() if name != MANIFEST and not name.startswith(f"{SCRATCH}/")}


def _checksums(location: Location, names: Iterable[str], read: Callable[[str], Checksum]) -> Iterator[Checksum]:
    threads = max(os.cpu_count() or 1, location.parallel_reads)  # hashlib lets go of the GIL
    return read_ahead(read, names, depth=2 * threads, threads=threads)


def _sha256_or_problem(location: Location) -> Callable[[str], str | OSError]:
    def read(name: str) -> str | OSError:
        try:
            return location.sha256(name)
        except OSError as error:
            return error

    return read


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a source checkout that is not installed
        return None
