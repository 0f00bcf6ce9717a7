"""Batches without end, for training; and the rows alone, for people who want only the data.

BatchStream          epoch after epoch; where it stands is one integer
ActivationDataset    the same as a torch IterableDataset, for a DataLoader
RowsView             the rows of a hook point as a NumPy array that is read as it is indexed
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from storage.activation_reader import ActivationReader, Chunk
from storage.chunks import Array
from storage.locations import Location
from storage.row_filter import RowFilter


class BatchStream:
    """Shuffled batches [batch_size, d] without end, as `ActivationReader.iter_batches` gives those of an epoch.

    `position` counts the batches that were taken; a stream that starts there goes on with the same batches.
    """

    def __init__(
        self,
        store: ActivationReader,
        hook_point: str,
        batch_size: int,
        *,
        seed: int,
        keep: RowFilter | None = None,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        self.store, self.hook_point, self.batch_size = store, hook_point, batch_size
        self.position = position
        self._options: dict[str, Any] = {"seed": seed, "keep": keep, "rank": rank, "world": world, "device": device}
        self.batches_per_epoch = store.batches_per_epoch(hook_point, batch_size, keep, world)

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            epoch, start = divmod(self.position, self.batches_per_epoch or 1)
            for rows in self.store.iter_batches(
                self.hook_point, self.batch_size, epoch=epoch, start_batch=start, **self._options
            ):
                self.position += 1
                yield rows


class ActivationDataset(IterableDataset[Tensor]):
    """One epoch of shuffled batches [batch_size, d], float32; `epoch` may be set between two of them.

        dataset = ActivationDataset(path, "blocks.3.hook_resid_post", 1024, seed=0)
        DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="forkserver")

    Each worker of a DataLoader, and each of `world` ranks, reads rows of its own. Workers must not be forked: the
    threads that Zarr reads with do not survive that.
    """

    def __init__(
        self,
        root: str | Path | Location,
        hook_point: str,
        batch_size: int,
        *,
        seed: int,
        keep: RowFilter | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.root, self.hook_point, self.batch_size = root, hook_point, batch_size
        self.seed, self.keep, self.rank, self.world = seed, keep, rank, world
        self.epoch = 0

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        return ActivationReader.open(self.root).iter_batches(
            self.hook_point,
            self.batch_size,
            seed=self.seed,
            epoch=self.epoch,
            keep=self.keep,
            rank=self.rank * workers + number,
            world=self.world * workers,
        )


class RowsView:
    """The rows of one hook point, [rows, d] float32, in the order of the store, without padding.

    `view[17]`, `view[100:200]` and `np.asarray(view)` read what they give, chunk by chunk. `row_ids[100:200]` are the
    (sequence, position) of the same rows.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, store: ActivationReader, hook_point: str) -> None:
        self._read, self._read_row_ids = store.kept_rows(hook_point, None), store.row_ids(hook_point)
        self._chunks = store.chunks()
        self._starts = np.cumsum([0, *(chunk.rows for chunk in self._chunks)])
        self.shape = (store.n_rows, store.layout.hook_points[hook_point])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: SupportsIndex | slice) -> Array:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step < 1:
                raise IndexError("rows are read forwards: give a step of at least 1")
            return self._between(start, stop)[::step]
        row = range(len(self))[index]  # negative ones count from the end; raises IndexError
        return self._between(row, row + 1)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("the rows are on the disk: an array of them is a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def row_ids(self, start: int, stop: int) -> Array:
        """[stop − start, 2] uint32, the (sequence, position) of these rows."""
        return self._gather(start, stop, np.empty((max(0, stop - start), 2), np.uint32), self._read_row_ids)

    def _between(self, start: int, stop: int) -> Array:
        rows = np.empty((max(0, stop - start), self.shape[1]), np.float32)
        return self._gather(start, stop, rows, lambda chunk: self._read(chunk).float().numpy())

    def _gather(self, start: int, stop: int, out: Array, read: Any) -> Array:
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for number in range(max(first, 0), len(self._chunks)):
            chunk: Chunk = self._chunks[number]
            begin = int(self._starts[number])
            a, b = max(start, begin), min(stop, begin + chunk.rows)
            if a >= b:
                break
            out[a - start : b - start] = read(chunk)[a - begin : b - begin]
        return out
