"""Activations as stock Zarr arrays: any Zarr v3 reader opens them.

    data.zarr/<hook point>/acts      [capacity, d]   activations; bfloat16 as its bits in uint16
    data.zarr/<hook point>/row_id    [capacity, 2]   uint32 (sequence, position) of each row
    data.zarr/<hook point>/norm      [capacity]      float32, L2 norm of each row: what a row filter looks at

and where acts is int8 (see storage.quantisation)

    data.zarr/<hook point>/scale     [capacity]      float32
    data.zarr/<hook point>/mean      [parts, d]      float32
    data.zarr/<hook point>/spread    [parts, d]      float32

All are on one grid of chunks, the last two with a chunk for each part. Writes cover whole chunks only (a part's last
rows are padded): zarr never has to read a chunk to write it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

from storage.commits import FileRecord
from storage.errors import DamagedChunk
from storage.layout import DtypeName, StoreLayout
from storage.locations import Location
from storage.quantisation import MISSING, Quantised, dequantise, quantise

Array = np.ndarray[Any, Any]
RowIds = np.ndarray[Any, np.dtype[np.uint32]]
"""[rows, 2]: (sequence, position) of each row."""

# Zarr's description of an array or a group, next to its chunks.
METADATA = "zarr.json"

# How an unwritten row looks: a missing chunk reads as its fill value, without any error.
_NO_ROW_ID = 0xFFFFFFFF
_BFLOAT16_NAN = 0x7FC0
_NAN = float("nan")


@dataclass(frozen=True)
class ArrayForm:
    """One of a hook point's arrays: its dtype on disk, how a missing number reads, its width (None: a vector)."""

    dtype: str
    missing: Any
    width: int | None
    per_part: bool = False
    """One row for each part, not for each row of activations."""

    def shape(self, rows: int) -> tuple[int, ...]:
        return (rows,) if self.width is None else (rows, self.width)


def array_forms(dtype: DtypeName, d: int) -> dict[str, ArrayForm]:
    """The arrays of a hook point of width d, by name."""
    acts = {
        "bfloat16": ArrayForm("uint16", _BFLOAT16_NAN, d),  # Zarr has no bfloat16
        "float16": ArrayForm("float16", _NAN, d),
        "float32": ArrayForm("float32", _NAN, d),
        "int8": ArrayForm("int8", MISSING, d),
    }
    forms = {
        "acts": acts[dtype],
        "row_id": ArrayForm("uint32", _NO_ROW_ID, 2),
        "norm": ArrayForm("float32", _NAN, None),
    }
    if dtype == "int8":
        forms["scale"] = ArrayForm("float32", _NAN, None)
        forms["mean"] = forms["spread"] = ArrayForm("float32", _NAN, d, per_part=True)
    return forms


def create_arrays(data: Location, layout: StoreLayout) -> None:
    """Write the metadata of all arrays anew, at their full capacity; chunks that are there stay.

    `data` is the data.zarr of a store. Metadata is a function of the layout alone, so writing it anew also
    opens a sealed store again, extends one, and repairs a damaged one.
    """
    for name in data.names():
        if name.endswith(METADATA):
            data.remove(name)
    store = data.zarr_store()
    for hook_point, d in layout.hook_points.items():
        for name, form in array_forms(layout.dtype, d).items():
            rows, chunk = (layout.n_parts, 1) if form.per_part else (layout.capacity, layout.chunk_rows)
            zarr.create_array(
                store,
                name=f"{hook_point}/{name}",
                shape=form.shape(rows),
                chunks=form.shape(chunk),
                dtype=form.dtype,
                fill_value=form.missing,
                compressors=_codecs(np.dtype(form.dtype).itemsize),
                attributes={"logical_dtype": layout.dtype} if name == "acts" else {},
            )


class HookArrays:
    """The arrays of one hook point."""

    def __init__(self, data: Location, layout: StoreLayout, hook_point: str) -> None:
        # A chunk that happens to equal the fill value is data too: without this zarr would not write it.
        always = {"write_empty_chunks": True}
        self.store = RecordingStore(data.zarr_store())
        self.data = data
        self.hook_point = hook_point
        self.layout = layout
        self.forms = array_forms(layout.dtype, layout.hook_points[hook_point])
        self.arrays = {
            name: zarr.open_array(self.store, path=f"{hook_point}/{name}", config=always) for name in self.forms
        }

    def encode(self, rows_rd: Tensor) -> tuple[dict[str, Array], Tensor]:
        """Finite rows [r, d] as the numbers to be stored, and as they will be read."""
        dtype = self.layout.dtype
        if dtype == "int8":
            quantised = quantise(rows_rd)
            q, scale, mean, spread = (part.numpy() for part in quantised)
            stored = {"acts": q, "scale": scale, "mean": mean[None], "spread": spread[None]}
            return stored, dequantise(quantised)
        rows_rd = rows_rd.to(self.layout.memory_dtype)
        return {"acts": (rows_rd.view(torch.uint16) if dtype == "bfloat16" else rows_rd).numpy()}, rows_rd

    def write(self, part: int, stored: dict[str, Array]) -> dict[str, FileRecord]:
        """Write a part's numbers, by the name of their array; returns what each of its files holds now."""
        for name, values in stored.items():
            form = self.forms[name]
            start = part if form.per_part else part * self.layout.part_rows
            padding = 0 if form.per_part else -len(values) % self.layout.chunk_rows
            padded = np.pad(values, [(0, padding)] + [(0, 0)] * (values.ndim - 1), constant_values=form.missing)
            self.arrays[name][start : start + len(padded)] = padded
        return self.store.take_records()

    def read_acts(self, chunk: int, rows: int) -> Tensor:
        """The first `rows` rows of `chunk`, [rows, d] in the layout's memory dtype. Raises DamagedChunk."""
        acts = torch.from_numpy(self._read("acts", chunk, rows))
        if self.layout.dtype == "bfloat16":
            return acts.view(torch.bfloat16)
        if self.layout.dtype == "int8":
            part = chunk // self.layout.chunks_per_part
            mean, spread = (torch.from_numpy(self._read(name, part, 1)[0]) for name in ("mean", "spread"))
            return dequantise(Quantised(acts, torch.from_numpy(self._read("scale", chunk, rows)), mean, spread))
        return acts

    def read_row_ids(self, chunk: int, rows: int) -> RowIds:
        """[rows, 2] of the first `rows` rows of `chunk`. Raises DamagedChunk."""
        return self._read("row_id", chunk, rows)

    def read_norms(self, chunk: int, rows: int) -> Array:
        """[rows] of the first `rows` rows of `chunk`. Raises DamagedChunk."""
        return self._read("norm", chunk, rows)

    def resize(self, rows: int) -> None:
        """Set the length that a stock Zarr reader sees."""
        for name, form in self.forms.items():
            if not form.per_part:
                self.arrays[name].resize(form.shape(rows))

    def _read(self, name: str, chunk: int, rows: int) -> Array:
        form = self.forms[name]
        start = chunk if form.per_part else chunk * self.layout.chunk_rows
        try:
            values = np.asarray(self.arrays[name][start : start + rows])
        except (ValueError, RuntimeError) as error:  # crc32c's complaint, and Blosc's
            raise self._damaged(name, chunk, str(error)) from error
        # Writing refuses NaN, so one column tells a missing chunk from data.
        column = values if form.width is None else values[:, 0]
        if (np.isnan(column) if form.missing != form.missing else column == form.missing).any():
            raise self._damaged(name, chunk, "it is missing (it reads as its fill value)")
        return values

    def _damaged(self, name: str, chunk: int, problem: str) -> DamagedChunk:
        form = self.forms[name]
        file = f"{self.data}/{self.hook_point}/{name}/c/{chunk}" + ("" if form.width is None else "/0")
        part = chunk if form.per_part else chunk // self.layout.chunks_per_part
        return DamagedChunk(file, problem, self.hook_point, part)


class RecordingStore(WrapperStore[Store]):
    """A Zarr store that remembers what was written to it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._records: dict[str, FileRecord] = {}

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        self._records[key] = FileRecord.of(value.as_buffer_like())

    def take_records(self) -> dict[str, FileRecord]:
        """What was written since the last call: key → what it holds."""
        records, self._records = self._records, {}
        return dict(sorted(records.items()))


def hook_point_of(chunk_file: str) -> str:
    """`blocks.3.hook_resid_post` of `blocks.3.hook_resid_post/acts/c/17/0`."""
    return chunk_file.split("/")[0]


def _codecs(itemsize: int) -> Sequence[BloscCodec | Crc32cCodec]:
    # With blocks of 1 MiB Blosc decodes 4 times faster than with its own choice; zstd and Blosc alone miss
    # nearly every flipped bit, crc32c none. Single bytes leave Blosc nothing to gain.
    blosc = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=itemsize, blocksize=1 << 20)
    return (Crc32cCodec(),) if itemsize == 1 else (blosc, Crc32cCodec())
