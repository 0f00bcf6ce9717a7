"""Activations as stock Zarr arrays: any Zarr v3 reader opens them.

    data.zarr/<hook point>/acts      [capacity, d]   activations; bfloat16 as its bits in uint16
    data.zarr/<hook point>/row_id    [capacity, 2]   uint32 (sequence, position), on the same grid of chunks

Writes cover whole chunks only (a part's last rows are padded): zarr never has to read a chunk to write it.
"""

from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.codecs import BloscCodec, Crc32cCodec

from storage.errors import DamagedChunk
from storage.layout import StoreLayout
from storage.locations import Location

RowIds = np.ndarray[Any, np.dtype[np.uint32]]
"""[rows, 2]: (sequence, position) of each row."""

# Zarr's description of an array or a group, next to its chunks.
METADATA = "zarr.json"

# How an unwritten row looks: a missing chunk reads as its fill value, without any error.
_NO_ROW_ID = 0xFFFFFFFF
_BFLOAT16_NAN = 0x7FC0

# What each dtype is on disk: Zarr has no bfloat16.
_DISK_DTYPES: dict[str, tuple[str, Any]] = {
    "bfloat16": ("uint16", _BFLOAT16_NAN),
    "float16": ("float16", float("nan")),
    "float32": ("float32", float("nan")),
}


def create_arrays(data: Location, layout: StoreLayout) -> None:
    """Write the metadata of all arrays anew, at their full capacity; chunks that are there stay.

    `data` is the data.zarr of a store. Metadata is a function of the layout alone, so writing it anew also
    opens a sealed store again, and repairs a damaged one.
    """
    for name in data.names():
        if name.endswith(METADATA):
            data.remove(name)
    store = data.zarr_store()
    disk_dtype, fill_value = _DISK_DTYPES[layout.dtype]
    for hook_point, d in layout.hook_points.items():
        zarr.create_array(
            store,
            name=f"{hook_point}/acts",
            shape=(layout.capacity, d),
            chunks=(layout.chunk_rows, d),
            dtype=disk_dtype,
            fill_value=fill_value,
            compressors=_codecs(layout.torch_dtype.itemsize),
            attributes={"logical_dtype": layout.dtype},
        )
        zarr.create_array(
            store,
            name=f"{hook_point}/row_id",
            shape=(layout.capacity, 2),
            chunks=(layout.chunk_rows, 2),
            dtype="uint32",
            fill_value=_NO_ROW_ID,
            compressors=_codecs(4),
        )


class HookArrays:
    """The two arrays of one hook point."""

    def __init__(self, data: Location, layout: StoreLayout, hook_point: str) -> None:
        # A chunk that happens to equal the fill value is data too: without this zarr would not write it.
        always = {"write_empty_chunks": True}
        store = data.zarr_store()
        self.data = data
        self.hook_point = hook_point
        self.chunk_rows = layout.chunk_rows
        self.chunks_per_part = layout.chunks_per_part
        self.dtype = layout.torch_dtype
        self.acts = zarr.open_array(store, path=f"{hook_point}/acts", config=always)
        self.row_id = zarr.open_array(store, path=f"{hook_point}/row_id", config=always)

    def write(self, chunk: int, acts_rd: Tensor, row_ids: RowIds) -> None:
        """Write rows [r, d] (dtype of the layout, on the CPU) from the start of `chunk` on."""
        start = chunk * self.chunk_rows
        padding = -len(acts_rd) % self.chunk_rows
        stop = start + len(acts_rd) + padding
        padded = torch.nn.functional.pad(acts_rd, (0, 0, 0, padding), value=float("nan"))
        bits = padded.view(torch.uint16) if self.dtype == torch.bfloat16 else padded
        self.acts[start:stop] = bits.numpy()
        self.row_id[start:stop] = np.pad(row_ids, ((0, padding), (0, 0)), constant_values=_NO_ROW_ID)

    def read(self, chunk: int, rows: int) -> tuple[Tensor, RowIds]:
        """The first `rows` rows of `chunk`: activations [rows, d] and their ids. Raises DamagedChunk."""
        acts = torch.from_numpy(self._read(self.acts, chunk, rows))
        row_ids = self._read(self.row_id, chunk, rows)
        if self.dtype == torch.bfloat16:
            acts = acts.view(torch.bfloat16)
        # Writing refuses NaN, so one column tells a missing chunk from data.
        if acts[:, 0].isnan().any():
            raise self._damaged(self.acts, chunk, "it is missing (it reads as NaN)")
        if (row_ids[:, 0] == _NO_ROW_ID).any():
            raise self._damaged(self.row_id, chunk, "it is missing (it reads as the fill value)")
        return acts, row_ids

    def chunk_files(self, chunks: list[int]) -> list[str]:
        """The files of these chunks, relative to data.zarr."""
        return [_chunk_file(array, chunk) for array in (self.acts, self.row_id) for chunk in chunks]

    def resize(self, rows: int) -> None:
        """Set the length that a stock Zarr reader sees."""
        for array in (self.acts, self.row_id):
            array.resize((rows, array.shape[1]))

    def _read(self, array: zarr.Array[Any], chunk: int, rows: int) -> np.ndarray[Any, Any]:
        start = chunk * self.chunk_rows
        try:
            return np.asarray(array[start : start + rows])
        except (ValueError, RuntimeError) as error:  # crc32c's complaint, and Blosc's
            raise self._damaged(array, chunk, str(error)) from error

    def _damaged(self, array: zarr.Array[Any], chunk: int, problem: str) -> DamagedChunk:
        file = f"{self.data}/{_chunk_file(array, chunk)}"
        return DamagedChunk(file, problem, self.hook_point, chunk // self.chunks_per_part)


def hook_point_of(chunk_file: str) -> str:
    """`blocks.3.hook_resid_post` of `blocks.3.hook_resid_post/acts/c/17/0`."""
    return chunk_file.split("/")[0]


def _chunk_file(array: zarr.Array[Any], chunk: int) -> str:
    return f"{array.path}/c/{chunk}/0"


def _codecs(itemsize: int) -> tuple[BloscCodec, Crc32cCodec]:
    # With blocks of 1 MiB Blosc decodes 4 times faster than with its own choice; zstd and Blosc alone miss
    # nearly every flipped bit, crc32c none.
    blosc = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=itemsize, blocksize=1 << 20)
    return blosc, Crc32cCodec()
