"""The commit record of a part: the promise that its chunks are on the disk, and what they must hold.

It is written after the chunks are flushed, so a part without a record has never been written, whatever files
lie around. It holds nothing that differs between two runs of the same harvest.
"""

import hashlib
from pathlib import PurePosixPath
from typing import Any

import zarr
from pydantic import BaseModel, ConfigDict

from storage.errors import DamagedChunk
from storage.locations import Location
from storage.records import pack_record, unpack_record
from storage.statistics import PartStatistics

COMMITS = "commits"


class FileRecord(BaseModel):
    """What a file must hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> "FileRecord":
        return cls(size=len(data), sha256=hashlib.sha256(data).hexdigest())


class CommitRecord(BaseModel):
    """One part, committed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: int
    rows: int
    """Rows of each hook point; they fill `chunks` in order, the last one not always to its end."""
    chunks: list[int]
    seed: int
    """With the part's number, the seed of the order of its rows."""
    writer: str = f"zarr {zarr.__version__}"
    files: dict[str, FileRecord]
    """Chunk file → what it must hold."""
    statistics: dict[str, PartStatistics]
    """Hook point → statistics of its rows."""

    def pack(self) -> bytes:
        return pack_record(self.model_dump())


def commit_name(part: int) -> str:
    return f"{COMMITS}/{part:06d}.json"


def committed_parts(location: Location) -> list[int]:
    """The parts that have a record, whether it is intact or not."""
    return [int(PurePosixPath(name).stem) for name in location.names(COMMITS) if name.endswith(".json")]


def read_commit(location: Location, part: int) -> CommitRecord | None:
    """The record of a part, None when it was never committed. Raises DamagedChunk when it is not intact."""
    name = commit_name(part)
    if not location.exists(name):
        return None
    commit = CommitRecord.model_validate(read_record(location, name, part))
    if commit.part != part:
        raise DamagedChunk(f"{location}/{name}", f"it is the record of part {commit.part}", None, part)
    return commit


def read_record(location: Location, name: str, part: int | None = None) -> dict[str, Any]:
    """The content of one of the store's JSON files. Raises DamagedChunk when it is missing or not intact."""
    try:
        return unpack_record(location.read(name))
    except FileNotFoundError:
        raise DamagedChunk(f"{location}/{name}", "it is missing", None, part) from None
    except ValueError as error:
        raise DamagedChunk(f"{location}/{name}", str(error), None, part) from error


def check_file(location: Location, name: str, expected: FileRecord, hook_point: str | None, part: int | None) -> None:
    """Read a file and compare it with its record. Raises DamagedChunk."""
    try:
        found = FileRecord.of(location.read(name))
    except FileNotFoundError:
        raise DamagedChunk(f"{location}/{name}", "it is missing", hook_point, part) from None
    if found.size != expected.size:
        problem = f"it has {found.size} bytes instead of {expected.size}"
        raise DamagedChunk(f"{location}/{name}", problem, hook_point, part)
    if found != expected:
        raise DamagedChunk(f"{location}/{name}", "its sha256 is not the committed one", hook_point, part)
