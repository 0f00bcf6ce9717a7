"""Reading an activation store: shuffled batches, rows in order, statistics, and a check of every byte."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from storage.chunks import Array, HookArrays, RowIds, hook_point_of
from storage.commits import CommitRecord, FileRecord, check_file, commit_name, read_commit, read_record
from storage.errors import DamagedChunk, StorageError
from storage.layout import FORMAT_VERSION, StoreLayout
from storage.locations import Location, open_location
from storage.mixing import mix_rows
from storage.parallel import read_ahead
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
        self._kept: dict[tuple[str, RowFilter], dict[int, Array]] = {}
        self._resident: dict[tuple[str, RowFilter | None], dict[int, Tensor]] = {}
        self._resident_bytes_left = 0

    @classmethod
    def open(cls, root: str | Path | Location, resident_bytes: int = 0) -> Self:
        """Open a sealed store.

        The rows of a hook point stay in memory once they were read, if together they fit into what is left of
        `resident_bytes`.

        Raises StorageError when there is none, it is not complete, or another version of its format wrote it;
        DamagedChunk when one of its records is damaged.
        """
        location = open_location(root)
        if not location.exists(MANIFEST):
            raise StorageError(f"there is no activation store at {location}: harvest one first")
        layout = read_layout(location)
        if not location.exists(SEALED):
            raise StorageError(f"the activation store at {location} is not complete: run its harvest again")
        store = cls(location, layout, _read_records(location, layout))
        store._resident_bytes_left = resident_bytes
        return store

    @property
    def n_rows(self) -> int:
        """Committed rows of each hook point."""
        return sum(commit.rows for commit in self._commits.values())

    def parts(self) -> list[int]:
        """The committed parts, in order."""
        return sorted(self._commits)

    def commit(self, part: int) -> CommitRecord:
        """The record of a committed part."""
        return self._commits[part]

    def statistics(self, hook_point: str) -> StoreStatistics:
        """Of all rows of a hook point, merged from the commit records (no row is read)."""
        self._arrays_of(hook_point)
        return merge_statistics([self._commits[part].statistics[hook_point] for part in self.parts()])

    def chunks(self) -> list[Chunk]:
        """What is committed, in the order of the grid. The shape of the arrays promises nothing."""
        size = self.layout.chunk_rows
        return [
            Chunk(index, min(size, commit.rows - i * size))
            for commit in (self._commits[part] for part in self.parts())
            for i, index in enumerate(commit.chunks)
        ]

    def batches_per_epoch(self, hook_point: str, batch_size: int, keep: RowFilter | None = None, world: int = 1) -> int:
        """How many batches each of `world` ranks gets out of `iter_batches`, in every epoch the same.

        A rank reads its share of the chunks, whichever these are: what even the smallest share fills is what counts.
        """
        kept = sorted(self.count_kept(hook_point, keep))
        return sum(kept[: len(kept) // world]) // batch_size

    def iter_batches(
        self,
        hook_point: str,
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        keep: RowFilter | None = None,
        start_batch: int = 0,
        rank: int = 0,
        world: int = 1,
        buffer_chunks: int = 16,
        device: str | torch.device = "cpu",
    ) -> Iterator[Tensor]:
        """Shuffled batches [batch_size, d], float32 on `device`, of one epoch: each kept row at most once.

        Chunks are read in random order into a buffer of `buffer_chunks` that is mixed whenever half of it has
        left. The sequence of batches is a function of the arguments and of the rows alone; `start_batch=n` gives
        what follows the first n. The last incomplete batch is dropped. Of `world` ranks each gets other rows, and
        as many batches. Reading goes on in background threads, which end when the iterator is closed.

        Raises StorageError when the rows do not fill a batch, DamagedChunk at the first chunk that is missing or
        does not match its checksum.
        """
        if not 0 <= rank < world:
            raise StorageError(f"rank {rank} of {world} does not exist: ranks go from 0 to world - 1")
        read = self._resident_or_read(hook_point, keep)
        n_batches = self.batches_per_epoch(hook_point, batch_size, keep, world) if batch_size > 0 else 0
        if n_batches == 0:
            raise StorageError(
                f"{self.location} has {sum(self.count_kept(hook_point, keep))} rows of {hook_point} that can be used: "
                f"for {world} ranks they make no batch of {batch_size}"
            )
        generator = seeded_generator("batches", seed, epoch, rank, world)
        chunks = self.chunks()
        order = torch.randperm(len(chunks), generator=seeded_generator("chunks", seed, epoch)).tolist()
        share = [chunks[i] for i in order[rank : len(chunks) // world * world : world]]
        target, pinned = torch.device(device), torch.device(device).type == "cuda"

        def batches() -> Iterator[Tensor]:
            slots = max(buffer_chunks * self.layout.chunk_rows, batch_size + self.layout.chunk_rows)
            slots = min(slots, sum(chunk.rows for chunk in share) + self.layout.chunk_rows)
            buffer = torch.empty(slots, self.layout.hook_points[hook_point], dtype=self.layout.memory_dtype)
            with closing(
                read_ahead(read, share, depth=max(buffer_chunks // 4, self.threads), threads=self.threads)
            ) as blocks:
                mixed = mix_rows(
                    blocks,
                    buffer,
                    block_rows=self.layout.chunk_rows,
                    batch_size=batch_size,
                    start_batch=start_batch,
                    generator=generator,
                )
                for batch in islice(mixed, max(0, n_batches - start_batch)):
                    rows = batch.pin_memory() if pinned else batch
                    yield rows.to(target, non_blocking=True).float()

        return batches()

    def iter_rows(self, hook_point: str, keep: RowFilter | None = None) -> Iterator[tuple[Tensor, RowIds]]:
        """The kept rows [rows, d], float32, with their ids [rows, 2] (sequence, position), chunk by chunk.

        Raises DamagedChunk at the first chunk that is missing or does not match its checksum.
        """
        read_acts, read_ids = self._resident_or_read(hook_point, keep), self.row_ids(hook_point)

        def read(chunk: Chunk) -> tuple[Tensor, RowIds]:
            row_ids = read_ids(chunk)
            return read_acts(chunk), row_ids if keep is None else row_ids[self.is_kept(hook_point, keep, chunk)]

        def chunks() -> Iterator[tuple[Tensor, RowIds]]:
            with closing(read_ahead(read, self.chunks(), depth=max(2, self.threads), threads=self.threads)) as blocks:
                for acts, row_ids in blocks:
                    yield acts.float(), row_ids

        return chunks()

    def row_ids(self, hook_point: str) -> Callable[[Chunk], RowIds]:
        """A function that reads the (sequence, position) of a chunk's rows, [rows, 2]."""
        arrays = self._arrays_of(hook_point)
        return lambda chunk: arrays.read_row_ids(chunk.index, chunk.rows)

    def kept_rows(self, hook_point: str, keep: RowFilter | None) -> Callable[[Chunk], Tensor]:
        """A function that reads a chunk's kept rows [rows, d], in the layout's memory dtype."""
        arrays = self._arrays_of(hook_point)
        if keep is None:
            return lambda chunk: arrays.read_acts(chunk.index, chunk.rows)
        self._find_kept(hook_point, keep)

        def read(chunk: Chunk) -> Tensor:
            acts, kept = arrays.read_acts(chunk.index, chunk.rows), self.is_kept(hook_point, keep, chunk)
            return acts if kept.all() else acts[torch.from_numpy(kept)]

        return read

    def _resident_or_read(self, hook_point: str, keep: RowFilter | None) -> Callable[[Chunk], Tensor]:
        """`kept_rows`, which reads a chunk only once if the memory budget has room for all of them."""
        read = self.kept_rows(hook_point, keep)
        if (hook_point, keep) not in self._resident:
            row = self.layout.hook_points[hook_point] * self.layout.memory_dtype.itemsize
            needed = sum(self.count_kept(hook_point, keep)) * row
            if needed > self._resident_bytes_left:
                return read
            self._resident_bytes_left -= needed
            self._resident[hook_point, keep] = {}
        resident = self._resident[hook_point, keep]

        def read_once(chunk: Chunk) -> Tensor:
            if chunk.index not in resident:
                resident[chunk.index] = read(chunk)
            return resident[chunk.index]

        return read_once

    def count_kept(self, hook_point: str, keep: RowFilter | None) -> list[int]:
        """Kept rows of each of `chunks()`."""
        if keep is None:
            return [chunk.rows for chunk in self.chunks()]
        return [int(self.is_kept(hook_point, keep, chunk).sum()) for chunk in self.chunks()]

    def count_left_out(self, hook_point: str, keep: RowFilter) -> Mapping[str, int]:
        """What becomes of the rows, {first_position, norm, kept}: numbers that add up to `n_rows`."""
        kept = sum(self.count_kept(hook_point, keep))
        by_position = keep.model_copy(update={"max_norm_ratio": None})
        first = self.n_rows - sum(self.count_kept(hook_point, by_position))
        return {"first_position": first, "norm": self.n_rows - first - kept, "kept": kept}

    @property
    def threads(self) -> int:
        """How many reads at once make the most of the place: requests to an object store take long and cost little."""
        return self.location.parallel_reads

    def verify(self, on_bytes: Callable[[int], None] = lambda size: None) -> None:
        """Read every file and compare it with its record. Raises DamagedChunk at the first that differs.

        `on_bytes` is told how many bytes were read since its last call.
        """
        layout = read_layout(self.location)
        for commit in _read_records(self.location, layout).values():
            self.verify_part(commit, on_bytes)

    def verify_part(self, commit: CommitRecord, on_bytes: Callable[[int], None] = lambda size: None) -> None:
        """The same for the files of one part."""

        def read(name: str) -> int:
            check_file(self._data, name, commit.files[name], hook_point_of(name), commit.part)
            return commit.files[name].size

        for size in read_ahead(read, commit.files, depth=self.threads, threads=self.threads):
            on_bytes(size)

    def _arrays_of(self, hook_point: str) -> HookArrays:
        if hook_point not in self._arrays:
            nearest = difflib.get_close_matches(hook_point, self._arrays, n=3, cutoff=0)
            raise StorageError(
                f"the activation store at {self.location} has no hook point {hook_point!r}. "
                f"Nearest: {', '.join(nearest)}"
            )
        return self._arrays[hook_point]

    def is_kept(self, hook_point: str, keep: RowFilter, chunk: Chunk) -> Bool[Array, " rows"]:
        """Which rows of a chunk the filter keeps. The first call looks at all chunks."""
        self._find_kept(hook_point, keep)
        return np.unpackbits(self._kept[hook_point, keep][chunk.index], count=chunk.rows).astype(bool)

    def _find_kept(self, hook_point: str, keep: RowFilter) -> None:
        """Look once at all norms and positions, 1 % of the bytes of the activations; remember one bit a row."""
        if (hook_point, keep) in self._kept:
            return
        arrays = self._arrays_of(hook_point)
        limit = None
        if keep.max_norm_ratio is not None:
            limit = keep.max_norm_ratio * self.statistics(hook_point).norm_median

        def find(chunk: Chunk) -> tuple[int, Array]:
            kept = np.ones(chunk.rows, bool)
            if keep.skip_first_position:
                kept &= arrays.read_row_ids(chunk.index, chunk.rows)[:, 1] != 0
            if limit is not None:
                kept &= arrays.read_norms(chunk.index, chunk.rows) <= limit
            return chunk.index, np.packbits(kept)

        self._kept[hook_point, keep] = dict(read_ahead(find, self.chunks(), depth=16, threads=self.threads))


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

    def read(part: int) -> CommitRecord:
        commit = read_commit(location, part)
        if commit is None:
            raise DamagedChunk(f"{location}/{commit_name(part)}", "it is missing", None, part)
        return commit

    parts = list(range(layout.n_parts))
    return dict(zip(parts, read_ahead(read, parts, depth=16, threads=location.parallel_reads), strict=True))
