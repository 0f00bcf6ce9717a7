"""What can go wrong with things on disk. Every message says what, where, and what to do.

The arguments of each exception are its constructor's, so that it survives the trip between processes.
"""

from collections.abc import Sequence
from pathlib import Path


class StorageError(Exception):
    """Something stored cannot be used, or cannot be stored."""


class DamagedArtifact(StorageError):
    """An artifact is there, but its files are not the ones its manifest lists."""

    def __init__(self, kind: str, key: str, problems: Sequence[str]) -> None:
        super().__init__(kind, key, problems)
        self.kind = kind
        self.key = key
        self.problems = problems

    def __str__(self) -> str:
        return (
            f"artifact {self.kind}/{self.key} is damaged: {'; '.join(self.problems)}. "
            "Run what made it again: it is repaired on the way."
        )


class DamagedChunk(StorageError):
    """A file of an activation store is missing or does not hold what was committed.

    `hook_point` and `part` are None for the files that belong to the whole store.
    """

    def __init__(self, file: str | Path, problem: str, hook_point: str | None, part: int | None) -> None:
        super().__init__(file, problem, hook_point, part)
        self.file = str(file)
        self.problem = problem
        self.hook_point = hook_point
        self.part = part

    def __str__(self) -> str:
        owner = f" (hook point {self.hook_point}, part {self.part})" if self.hook_point else ""
        return f"{self.file}{owner} is damaged: {self.problem}. Run again: only its part is harvested anew."


class OutOfSpace(StorageError):
    """The disk, a quota or the file-size limit leaves no room; sizes are in bytes.

    `needed` is what was about to be written, None where that is not known.
    """

    def __init__(self, path: str | Path, needed: int | None, free: int) -> None:
        super().__init__(path, needed, free)
        self.path = str(path)
        self.needed = needed
        self.free = free

    def __str__(self) -> str:
        needed = "" if self.needed is None else f"{self.needed:,} bytes were to be written, "
        return (
            f"no room at {self.path}: {needed}{self.free:,} bytes are free. "
            "Make room, or choose another home, then run again: what is committed is kept."
        )
