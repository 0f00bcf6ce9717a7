"""The codes of one dictionary that are not zero, on disk: one feature is one slice, and memory stays bounded.

    {first}_{last}.safetensors    of the latents first to last: locations [E, 3], each (row, position, latent − first),
                                  uint16 where that fits, else uint32; activations [E], float16; tokens [S, P], uint32
    entries.parquet               how many entries each latent has
    config.json                   what they are of

The files are laid out as EleutherAI's delphi reads them, in a folder for each hook point; as there, |a| ≤ 1e-5 is left
out. Entries are sorted by latent and then by place in the text, so the counts of entries.parquet, summed up, tell where
each latent begins.

Codes come in any order, and more of them than memory holds. So they go first to one file for each range of latents, so
narrow that it can be sorted in memory even if none of its codes is zero; then neighbouring ranges are sorted, and
written, together.

Shapes: E entries, S rows of tokens, P positions, n latents.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.numpy import save_file

from storage.errors import StorageError
from storage.tables import read_table, write_table

LEAST = 1e-5
"""Magnitude up to which an activation is left out."""

ENTRIES_AT_ONCE = 1 << 22
"""What is sorted, and written to one file: about 200 MB while it is."""

CONFIG = "config.json"
COUNTS = "entries.parquet"

RUN = np.dtype([("key", "<i8"), ("activation", "<f2")])
"""An entry that is not sorted yet: its key is (latent · S + row) · P + position."""


class Entries(NamedTuple):
    """Activations with their places, sorted by latent, row and position."""

    latent: Int[np.ndarray, " E"]
    row: Int[np.ndarray, " E"]
    position: Int[np.ndarray, " E"]
    activation: Float[np.ndarray, " E"]


class LatentWriter:
    """Takes codes batch by batch, in any order."""

    def __init__(self, scratch: Path, tokens_SP: Int[np.ndarray, "S P"], n_latents: int) -> None:
        """`scratch` holds what is not sorted yet."""
        scratch.mkdir(parents=True)
        self.scratch, self.tokens_SP, self.n_latents = scratch, tokens_SP, n_latents
        self.width = max(1, ENTRIES_AT_ONCE // tokens_SP.size)
        self.counts_n = np.zeros(n_latents, np.int64)

    def add(
        self,
        row_E: Int[np.ndarray, " E"],
        position_E: Int[np.ndarray, " E"],
        latent_E: Int[np.ndarray, " E"],
        activation_E: Float[np.ndarray, " E"],
    ) -> None:
        """Take in activations, each of a place and a latent that had none yet.

        Raises StorageError for one that float16 does not hold.
        """
        strong = np.flatnonzero(np.abs(activation_E) > LEAST)
        bucket = (latent_E[strong] // self.width).astype(np.uint32)
        by_bucket = np.argsort(bucket, kind="stable")
        strong, bucket = strong[by_bucket], bucket[by_bucket]
        run = np.empty(len(strong), RUN)
        rows, positions = self.tokens_SP.shape
        run["key"] = (latent_E[strong].astype(np.int64) * rows + row_E[strong]) * positions + position_E[strong]
        with np.errstate(over="ignore"):
            run["activation"] = activation_E[strong]
        if not np.isfinite(run["activation"]).all():
            raise StorageError(
                f"an activation of {np.abs(activation_E).max():g} does not fit float16, whose largest number is 65504"
            )
        self.counts_n += np.bincount(latent_E[strong], minlength=self.n_latents)
        numbers, starts = np.unique(bucket, return_index=True)
        for number, start, stop in zip(numbers, starts, [*starts[1:], len(run)], strict=False):
            with (self.scratch / str(number)).open("ab") as file:
                file.write(run[start:stop].tobytes())

    def close(self, place: Path, about: Mapping[str, Any]) -> None:
        """Sort what came in and write it to `place`; `about` says in config.json what it is of."""
        place.mkdir(parents=True)
        for first, last, buckets in self._files():
            runs = [np.fromfile(file, RUN) for bucket in buckets if (file := self.scratch / str(bucket)).exists()]
            _write(
                place / f"{first}_{last}.safetensors", first, np.concatenate([np.empty(0, RUN), *runs]), self.tokens_SP
            )
        write_table(place / COUNTS, {"entries": self.counts_n})
        rows, positions = self.tokens_SP.shape
        told = {"n_latents": self.n_latents, "n_tokens": rows * positions, "ctx_len": positions, **about}
        (place / CONFIG).write_text(json.dumps(told, indent=1, allow_nan=False))

    def _files(self) -> Iterator[tuple[int, int, list[int]]]:
        """First and last latent of each file, and its ranges: as many as are sorted at once, one at least."""
        begin, filled, buckets = 0, 0, []
        for bucket, start in enumerate(range(0, self.n_latents, self.width)):
            count = int(self.counts_n[start : start + self.width].sum())
            if buckets and filled + count > ENTRIES_AT_ONCE:
                yield begin, start - 1, buckets
                begin, filled, buckets = start, 0, []
            filled += count
            buckets.append(bucket)
        yield begin, self.n_latents - 1, buckets


def _write(file: Path, first: int, run: np.ndarray, tokens_SP: Int[np.ndarray, "S P"]) -> None:
    run = run[np.argsort(run["key"])]
    rows, positions = tokens_SP.shape
    place, position = np.divmod(run["key"], positions)
    latent, row = np.divmod(place, rows)
    locations = np.stack([row, position, latent - first], axis=1)
    small = locations.size == 0 or locations.max() <= np.iinfo(np.uint16).max
    tensors = {
        "locations": locations.astype(np.uint16 if small else np.uint32),
        "activations": np.ascontiguousarray(run["activation"]),
        "tokens": tokens_SP.astype(np.uint32),
    }
    save_file(tensors, file)


class Latents:
    """Reads single latents, or all of them file by file; the files are mapped into memory."""

    def __init__(self, place: Path, counts_n: Int[np.ndarray, " n"]) -> None:
        self.counts_n = counts_n
        self._begins = np.concatenate([[0], np.cumsum(counts_n)])
        files = {int(file.stem.split("_")[0]): file for file in place.glob("*_*.safetensors")}
        self._firsts = sorted(files)
        self._files = [safe_open(files[first], "np") for first in self._firsts]

    @classmethod
    def open(cls, place: Path) -> Self:
        """What `LatentWriter.close` wrote to `place`."""
        return cls(place, read_table(place / COUNTS)["entries"].to_numpy())

    def of(self, latent: int) -> Entries:
        """The entries of one latent."""
        number = bisect_right(self._firsts, latent) - 1
        begin = self._begins[self._firsts[number]]
        return self._read(number, int(self._begins[latent] - begin), int(self._begins[latent + 1] - begin))

    def parts(self) -> Iterator[Entries]:
        """The entries of all latents, those of one never apart."""
        bounds = [*self._firsts, len(self.counts_n)]
        for number, (first, end) in enumerate(pairwise(bounds)):
            yield self._read(number, 0, int(self._begins[end] - self._begins[first]))

    def _read(self, number: int, start: int, stop: int) -> Entries:
        if start == stop:  # which safetensors refuses to slice
            nothing = np.zeros(0, np.int64)
            return Entries(nothing, nothing, nothing, np.zeros(0, np.float16))
        file = self._files[number]
        row, position, latent = file.get_slice("locations")[start:stop].astype(np.int64).T
        return Entries(latent + self._firsts[number], row, position, file.get_slice("activations")[start:stop])
