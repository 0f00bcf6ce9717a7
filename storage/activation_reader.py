"""Reading an activation store: shuffled batches, rows in order, statistics, and a check of every byte."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from storage.chunks import HookArrays, RowIds, hook_point_of
from storage.commits import CommitRecord, FileRecord, check_file, commit_name, read_commit, read_record
from storage.errors import DamagedChunk, StorageError
from storage.layout import FORMAT_VERSION, StoreLayout
from storage.locations import Location, open_location
from storage.mixing import mix_rows, read_ahead
from storage.row_filter import RowFilter
from storage.seeds import seeded_generator
from storage.statistics import StoreStatistics, merge_statistics

MANIFEST = "manifest.json"
SEALED = "sealed.json"
DATA = "data.zarr"


class Seal(BaseModel):
    """The last record of a store: it is complete, and these are its metadata files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: int
    rows: int
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Chunk:
    """A committed chunk: its place in the grid, and how many rows it holds."""

    index: int
    rows: int


class ActivationReader:
    """The committed rows of several hook points; the same row is the same token at each of them."""

    def __init__(self, location: Location, layout: StoreLayout, commits: dict[int, CommitRecord]) -> None:
        self.location = location
        self.layout = layout
        self._data = location.child(DATA)
        self._commits = commits
        self._arrays = {name: HookArrays(self._data, layout, name) for name in layout.hook_points}

    @classmethod
    def open(cls, root: str | Path) -> Self:
        """Open a sealed store.

        Raises StorageError when there is none, it is not complete, or another version of its format wrote it;
        DamagedChunk when one of its records is damaged.
        """
        location = open_location(root)
        if not location.exists(MANIFEST):
            raise StorageError(f"there is no activation store at {location}: harvest one first")
        layout = read_layout(location)
        if not location.exists(SEALED):
            raise StorageError(f"the activation store at {location} is not complete: run its harvest again")
        return cls(location, layout, _read_records(location, layout))

    @property
    def n_rows(self) -> int:
        """Committed rows of each hook point."""
        return sum(commit.rows for commit in self._commits.values())

    def statistics(self, hook_point: str) -> StoreStatistics:
        """Of all rows of a hook point, merged from the commit records (no row is read)."""
        self._arrays_of(hook_point)
        return merge_statistics([commit.statistics[hook_point] for commit in self._in_order()])

    def iter_batches(
        self,
        hook_point: str,
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        keep: RowFilter | None = None,
        start_batch: int = 0,
        buffer_chunks: int = 8,
    ) -> Iterator[Tensor]:
        """Shuffled batches [batch_size, d], float32, of one epoch: each kept row at most once.

        Chunks are read in random order into a buffer of `buffer_chunks` that is mixed whenever half of it has
        left. The sequence of batches is a function of the arguments alone; `start_batch=n` gives what follows
        the first n. The last incomplete batch is dropped. Reading goes on in a background thread, which ends
        when the iterator is closed.

        Raises DamagedChunk at the first chunk that is missing or does not match its checksum.
        """
        read = self._kept_rows(hook_point, keep)
        if not 1 <= batch_size <= self.n_rows:
            raise StorageError(f"{self.location} has {self.n_rows} rows: they make no batch of {batch_size}")

        def batches() -> Iterator[Tensor]:
            generator = seeded_generator("batches", seed, epoch)
            chunks = self._chunks()
            order = [chunks[i] for i in torch.randperm(len(chunks), generator=generator).tolist()]
            slots = max(buffer_chunks * self.layout.chunk_rows, batch_size + self.layout.chunk_rows)
            buffer = torch.empty(slots, self.layout.hook_points[hook_point], dtype=self.layout.torch_dtype)
            with closing(read_ahead(lambda chunk: read(chunk)[0], order, depth=buffer_chunks // 2)) as blocks:
                yield from mix_rows(
                    blocks,
                    buffer,
                    block_rows=self.layout.chunk_rows,
                    batch_size=batch_size,
                    start_batch=start_batch,
                    generator=generator,
                )

        return batches()

    def iter_rows(self, hook_point: str, keep: RowFilter | None = None) -> Iterator[tuple[Tensor, RowIds]]:
        """The kept rows [rows, d], float32, with their ids [rows, 2] (sequence, position), chunk by chunk."""
        read = self._kept_rows(hook_point, keep)

        def chunks() -> Iterator[tuple[Tensor, RowIds]]:
            with closing(read_ahead(read, self._chunks(), depth=2)) as blocks:
                for acts, row_ids in blocks:
                    yield acts.float(), row_ids

        return chunks()

    def count_left_out(self, hook_point: str, keep: RowFilter) -> dict[str, int]:
        """What becomes of the rows, {first_position, norm, kept}: numbers that add up to `n_rows`."""
        arrays = self._arrays_of(hook_point)
        norm_median = self.statistics(hook_point).norm_median
        first_position = norm = 0
        for chunk in self._chunks():
            acts, row_ids = arrays.read(chunk.index, chunk.rows)
            first = at_first_position(row_ids, keep)
            first_position += int(first.sum())
            norm += int((too_large(acts, keep, norm_median) & ~first).sum())
        return {"first_position": first_position, "norm": norm, "kept": self.n_rows - first_position - norm}

    def verify(self) -> None:
        """Compare every file with what was committed. Raises DamagedChunk naming the first wrong one."""
        layout = read_layout(self.location)
        for commit in _read_records(self.location, layout).values():
            for name, expected in commit.files.items():
                check_file(self._data, name, expected, hook_point_of(name), commit.part)

    def _arrays_of(self, hook_point: str) -> HookArrays:
        if hook_point not in self._arrays:
            nearest = difflib.get_close_matches(hook_point, self._arrays, n=3, cutoff=0)
            raise StorageError(
                f"the activation store at {self.location} has no hook point {hook_point!r}. "
                f"Nearest: {', '.join(nearest)}"
            )
        return self._arrays[hook_point]

    def _chunks(self) -> list[Chunk]:
        """What is committed, in the order of the grid. The shape of the arrays promises nothing."""
        size = self.layout.chunk_rows
        return [
            Chunk(index, min(size, commit.rows - i * size))
            for commit in self._in_order()
            for i, index in enumerate(commit.chunks)
        ]

    def _in_order(self) -> list[CommitRecord]:
        return [self._commits[part] for part in sorted(self._commits)]

    def _kept_rows(self, hook_point: str, keep: RowFilter | None) -> Callable[[Chunk], tuple[Tensor, RowIds]]:
        """A function that reads a chunk's kept rows, in the store's dtype, and their ids."""
        arrays = self._arrays_of(hook_point)
        if keep is None:
            return lambda chunk: arrays.read(chunk.index, chunk.rows)
        norm_median = self.statistics(hook_point).norm_median

        def read(chunk: Chunk) -> tuple[Tensor, RowIds]:
            acts, row_ids = arrays.read(chunk.index, chunk.rows)
            kept = ~(at_first_position(row_ids, keep) | too_large(acts, keep, norm_median))
            return acts[kept], row_ids[kept.numpy()]

        return read


def at_first_position(row_ids: RowIds, keep: RowFilter) -> Tensor:
    """[rows] bool: left out for their position."""
    first = torch.from_numpy(row_ids[:, 1] == 0)
    return first if keep.skip_first_position else torch.zeros_like(first)


def too_large(acts_rd: Tensor, keep: RowFilter, norm_median: float) -> Tensor:
    """[rows] bool: left out for their norm."""
    if keep.max_norm_ratio is None:
        return torch.zeros(len(acts_rd), dtype=torch.bool)
    norms = torch.linalg.vector_norm(acts_rd, dim=1, dtype=torch.float32)
    return norms > keep.max_norm_ratio * norm_median


def read_layout(location: Location) -> StoreLayout:
    """The layout of the store at `location`. Raises StorageError for another format version, DamagedChunk."""
    content = read_record(location, MANIFEST)
    version = content.get("format_version")
    if version == FORMAT_VERSION:
        return StoreLayout.model_validate(content)
    raise StorageError(
        f"{location} holds an activation store of format version {version}; this version of saeflow reads "
        f"version {FORMAT_VERSION}. Harvest it again, or read it with the version that wrote it."
    )


def _read_records(location: Location, layout: StoreLayout) -> dict[int, CommitRecord]:
    """The records of all parts of a sealed store, after a look at its metadata. Raises DamagedChunk."""
    seal = Seal.model_validate(read_record(location, SEALED))
    for name, expected in seal.files.items():
        check_file(location.child(DATA), name, expected, None, None)
    commits = {}
    for part in range(layout.n_parts):
        commit = read_commit(location, part)
        if commit is None:
            raise DamagedChunk(f"{location}/{commit_name(part)}", "it is missing", None, part)
        commits[part] = commit
    return commits
