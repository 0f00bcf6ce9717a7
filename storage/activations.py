"""The activation store: what each hook point saw, on disk, shuffled, safe against a kill at any moment.

    manifest.json          the layout, immutable
    data.zarr/             the rows; see storage.chunks
    commits/<part>.json    written after the part's chunks are flushed; see storage.commits
    sealed.json            written when every part is committed

Writing goes part by part: permute the rows, write whole chunks, flush, commit. Resuming is writing the parts
that have no commit record. One process creates a store and seals it; any number may join it in between, each with
parts of its own. However many there were and however often they were killed, the files end up the same, byte for byte.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from storage.activation_reader import DATA, MANIFEST, SEALED, ActivationReader, Seal, read_layout
from storage.chunks import METADATA, Array, RowIds, create_arrays, hook_point_of
from storage.commits import CommitRecord, FileRecord, commit_name, read_commit
from storage.durable import TEMPORARY
from storage.errors import DamagedChunk, StorageError
from storage.layout import StoreLayout
from storage.locations import Location, open_location
from storage.records import pack_readable_record
from storage.seeds import seeded_generator
from storage.statistics import PartStatistics, absmax, describe_rows

logger = logging.getLogger("saeflow.storage")


class ActivationStore(ActivationReader):
    """Activations of several hook points: `open` a complete store to read it, `create` one to write it."""

    @classmethod
    def create(cls, root: str | Path | Location, layout: StoreLayout) -> Self:
        """Open a store for writing: a new one, or one that was begun with the same layout.

        Temporary files of a killed writer are deleted. A part that lost one of its files, or whose record is
        damaged, counts as not committed. There must be no other writer at this moment.

        Raises StorageError when another layout is there, DamagedChunk when the layout there is unreadable.
        """
        location = open_location(root)
        existing = read_layout(location) if location.exists(MANIFEST) else None
        if existing is None:
            location.commit(MANIFEST, pack_readable_record(layout.model_dump(mode="json")))
        elif existing != layout:
            raise StorageError(
                f"{location} holds an activation store of another layout ({_differences(existing, layout)}). "
                "Write to another place, or remove that store."
            )
        for name in location.names():
            if name.endswith(TEMPORARY):
                location.remove(name)
        location.remove(SEALED)
        create_arrays(location.child(DATA), layout)
        store = cls(location, layout, {})
        store._find_commits()
        return store

    @classmethod
    def join(cls, root: str | Path | Location) -> Self:
        """Open a store that another process has created and will seal, to write some of its parts.

        Raises StorageError when there is none, DamagedChunk when its layout is unreadable.
        """
        location = open_location(root)
        if not location.exists(MANIFEST):
            raise StorageError(f"there is no activation store at {location} to join")
        return cls(location, read_layout(location), {})

    def adopt(self, base: ActivationReader) -> None:
        """Take over the parts of a store that this one extends; locally they become links to the same files.

        A part that is damaged there stays missing here.

        Raises StorageError when `base` is not the beginning of this store.
        """
        if not self.layout.extends(base.layout):
            raise StorageError(f"{base.location} is not the beginning of {self.location}")
        for part in base.parts():
            if part in self._commits:
                continue
            commit = base.commit(part)
            try:
                # Else damage would come back with every repair. It costs one read: a part that was taken over is kept.
                base.verify_part(commit)
            except DamagedChunk as damage:
                logger.warning("part %d is written anew: %s %s", part, damage.file, damage.problem)
                continue
            self._data.copy_from(base.location.child(DATA), list(commit.files))
            self._data.sync(commit.files)
            self._commit(commit)

    def missing_parts(self) -> list[int]:
        """The parts still to be written, in order."""
        return [part for part in range(self.layout.n_parts) if part not in self._commits]

    def write_part(self, part: int, activations: Mapping[str, Tensor], row_ids: Array) -> None:
        """Write and commit one part; once this returns, no crash undoes it.

        `activations` maps every hook point to its rows [rows, d], in the order of `row_ids` [rows, 2], the
        (sequence, position) of each row. Sequences are those of `layout.part_sequences(part)`. The rows are
        permuted on the way by (seed, part) and cast to the store's dtype.

        Raises StorageError for wrong shapes or sequences, NaN, infinity and float16 overflow; OutOfSpace.
        """
        self._check_part(part, activations, row_ids)
        if committed := read_commit(self.location, part):  # by a process that was given the same part
            self._commits[part] = committed
            return
        # Permuted on write: random chunk order alone leaves 16 times the variance of iid batches.
        order = torch.randperm(len(row_ids), generator=seeded_generator("rows", self.layout.seed, part))
        ids = row_ids[order.numpy()].astype(np.uint32)
        first_chunk = part * self.layout.chunks_per_part
        files: dict[str, FileRecord] = {}
        statistics: dict[str, PartStatistics] = {}
        for hook_point, arrays in self._arrays.items():
            rows = activations[hook_point].detach()
            rows = rows.index_select(0, order.to(rows.device)).cpu()
            if not math.isfinite(absmax(rows)):
                raise _not_finite(hook_point, rows, rows, ids)
            stored, as_read = arrays.encode(rows)
            statistics[hook_point], norms = describe_rows(as_read, rows)
            if not math.isfinite(statistics[hook_point].absmax):
                raise _not_finite(hook_point, rows, as_read, ids)
            stored |= {"row_id": ids, "norm": norms.numpy()}
            with self.location.naming_a_full_disk(sum(values.nbytes for values in stored.values())):
                files |= arrays.write(part, stored)
        with self.location.naming_a_full_disk(None):  # some file systems notice only now
            self._data.sync(files)
        self._commit(
            CommitRecord(
                part=part,
                rows=len(ids),
                chunks=list(range(first_chunk, first_chunk - (-len(ids) // self.layout.chunk_rows))),
                seed=self.layout.seed,
                files=files,
                statistics=statistics,
            )
        )

    def seal(self) -> None:
        """Declare the store complete. Raises StorageError while parts are missing."""
        self._find_commits()  # others may have written some
        if self.missing_parts():
            raise StorageError(f"{self.location} is not complete: parts {self.missing_parts()} are missing")
        last = self._commits[self.layout.n_parts - 1]
        for arrays in self._arrays.values():
            arrays.resize(last.chunks[0] * self.layout.chunk_rows + last.rows)
        metadata = [name for name in self._data.names() if name.endswith(METADATA)]
        self._data.sync(metadata)
        files = {name: FileRecord.of(self._data.read(name)) for name in metadata}
        seal = Seal(parts=self.layout.n_parts, rows=self.n_rows, files=files)
        self.location.commit(SEALED, pack_readable_record(seal.model_dump()))

    def file_records(self) -> dict[str, FileRecord]:
        """What the data files of the committed parts hold: name relative to the store → record."""
        return {f"{DATA}/{name}": file for commit in self._commits.values() for name, file in commit.files.items()}

    def _find_commits(self) -> None:
        sizes = self._data.sizes()
        missing = self.missing_parts()
        self._commits.update({part: commit for part in missing if (commit := _whole_part(self.location, part, sizes))})

    def _commit(self, commit: CommitRecord) -> None:
        name = commit_name(commit.part)
        if not self.location.commit_new(name, commit.pack()) and read_commit(self.location, commit.part) != commit:
            self.location.remove(name)  # its chunks were just overwritten
            raise StorageError(
                f"{self.location}: two processes wrote part {commit.part}, and not the same bytes. Processes that "
                "share a harvest need the same hardware and thread count. Run again: the part is written anew."
            )
        self._commits[commit.part] = commit

    def _check_part(self, part: int, activations: Mapping[str, Tensor], row_ids: Array) -> None:
        layout = self.layout
        if part not in self.missing_parts():
            raise StorageError(f"part {part} of {self.location} is committed or does not exist")
        if row_ids.ndim != 2 or row_ids.shape[1] != 2 or not 1 <= len(row_ids) <= layout.part_rows:
            raise StorageError(f"row ids must be [1 to {layout.part_rows}, 2], not {list(row_ids.shape)}")
        if not np.isin(row_ids[:, 0], layout.part_sequences(part)).all():
            raise StorageError(f"some rows belong to sequences that are not in part {part} of {self.location}")
        shapes = {name: list(rows.shape) for name, rows in activations.items()}
        expected = {name: [len(row_ids), d] for name, d in layout.hook_points.items()}
        if shapes != expected:
            raise StorageError(f"part {part} of {self.location} must hold {expected}, not {shapes}")


def _whole_part(location: Location, part: int, sizes: Mapping[str, int]) -> CommitRecord | None:
    """The record of a part that has all its files, whose sizes are given; else a warning, and the record is removed."""
    try:
        commit = read_commit(location, part)
        if commit is None:
            return None
        for name, file in commit.files.items():
            if sizes.get(name) != file.size:
                raise DamagedChunk(f"{location}/{DATA}/{name}", "it is missing or cut short", hook_point_of(name), part)
    except DamagedChunk as damage:
        logger.warning("part %d is written anew: %s %s", part, damage.file, damage.problem)
        location.remove(commit_name(part))
        return None
    return commit


def _not_finite(hook_point: str, rows: Tensor, stored: Tensor, row_ids: RowIds) -> StorageError:
    """The error for rows [r, d] that hold NaN or infinity as stored: which row, and why."""
    row = int((~stored.isfinite()).any(dim=1).nonzero()[0])
    sequence, position = row_ids[row].tolist()
    where = f"hook point {hook_point}, sequence {sequence}, position {position}"
    if rows[row].isfinite().all():
        return StorageError(
            f"{where}: {rows[row].abs().max().item():g} does not fit {stored.dtype}, whose largest number is "
            f"{torch.finfo(stored.dtype).max:g}. Store this model's activations as bfloat16."
        )
    return StorageError(
        f"{where}: the activations hold NaN or infinity. Nothing can be learned from them: run the model in "
        "float32, and check its weights."
    )


def _differences(existing: StoreLayout, wanted: StoreLayout) -> str:
    old, new = existing.model_dump(), wanted.model_dump()
    return ", ".join(f"{name} {old[name]} instead of {new[name]}" for name in old if old[name] != new[name])
