"""The manifest: what an artifact directory holds, and where it came from.

`manifest.json` is written last. It lists every other file with its size and sha256, so that a directory can
be compared with it, and what the artifact was made from, so that a person can tell how it came to be.
"""

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from storage.errors import StorageError
from storage.records import canonical_json, pack_readable_record, unpack_record

MANIFEST = "manifest.json"
# What a build keeps here is there for its next attempt after a kill, and no part of the artifact.
SCRATCH = "scratch"
FORMAT_VERSION = 1

# Hashing runs at about 1 GB/s a core: up to here a full check costs seconds, beyond it every start of a run
# would wait minutes. Larger artifacts are checked by size here, and chunk by chunk (crc32c) when read.
FULL_CHECK_BYTES = 8 << 30

_PACKAGES = ("torch", "numpy", "zarr", "saeflow")


def describe(
    directory: Path,
    *,
    kind: str,
    key: str,
    code_version: str,
    spec: Mapping[str, Any],
    inputs: Mapping[str, Any],
    notes: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """The manifest of the files now in `directory`; `seconds` is the wall time of its build."""
    files = _list_files(directory)
    return {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "key": key,
        "code_version": code_version,
        "spec": spec,
        "inputs": inputs,
        "files": files,
        "digest": digest_of(files),
        "notes": notes,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
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


def read_manifest(directory: Path, kind: str, key: str) -> dict[str, Any]:
    """The manifest of `directory`. Raises ValueError saying what is wrong with it."""
    try:
        data = (directory / MANIFEST).read_bytes()
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


def find_damage(directory: Path, kind: str, key: str) -> dict[str, str]:
    """What is wrong with the files of `directory`: {file: problem}, empty when it is whole.

    A manifest that cannot be used is the only problem named: without its list no file can be judged.
    """
    try:
        recorded = {file["name"]: file for file in read_manifest(directory, kind, key)["files"]}
    except ValueError as error:
        return {MANIFEST: str(error)}
    present = {name: (directory / name).stat().st_size for name in _names(directory)}
    damage = dict.fromkeys(present.keys() - recorded.keys(), "is not in the manifest")
    damage |= dict.fromkeys(recorded.keys() - present.keys(), "is missing")
    for name in recorded.keys() & present.keys():
        if present[name] != recorded[name]["size"]:
            damage[name] = f"has {present[name]} bytes instead of {recorded[name]['size']}"
    if sum(file["size"] for file in recorded.values()) <= FULL_CHECK_BYTES:
        candidates = sorted(recorded.keys() - damage.keys())
        for name, checksum in zip(candidates, _checksums(directory, candidates), strict=True):
            if checksum != recorded[name]["sha256"]:
                damage[name] = "does not have the recorded sha256"
    return dict(sorted(damage.items()))


def _list_files(directory: Path) -> list[dict[str, Any]]:
    names = _names(directory)
    return [
        {"name": name, "size": (directory / name).stat().st_size, "sha256": checksum}
        for name, checksum in zip(names, _checksums(directory, names), strict=True)
    ]


def _names(directory: Path) -> list[str]:
    files = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(name for name in files if name != MANIFEST and not name.startswith(f"{SCRATCH}/"))


def _checksums(directory: Path, names: Iterable[str]) -> list[str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib lets go of the GIL
        return list(pool.map(lambda name: _sha256(directory / name), names))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a source checkout that is not installed
        return None
