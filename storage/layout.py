"""What an activation store will hold, fixed before the first row: everything else follows from it.

Sequences come in *segments*: those of the first harvest, and those that each extension added. The sequences of
a segment are shuffled, and their order is cut into *parts*: the unit of writing, committing, resuming and of
sharing the work. A part owns `chunks_per_part` chunks of `chunk_rows` rows in every array, whether it fills them
or not, so parts never share a file, and an extension changes no part that is there.
"""

import math
from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.seeds import seeded_generator

FORMAT_VERSION = 2

DtypeName = Literal["bfloat16", "float16", "float32", "int8"]

MEMORY_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "int8": torch.float32,
}
"""What rows of each dtype are in memory, once read."""

_BYTES_PER_NUMBER = {"bfloat16": 2, "float16": 2, "float32": 4, "int8": 1}


def default_chunk_rows(d: int, itemsize: int) -> int:
    """C: the power of two whose chunk [C, d] comes closest to 16 MiB from below, within [1024, 16384].

    Chunks that decode to more than 32 MiB read 4–15 times slower (glibc maps and unmaps them each time).
    """
    return min(max(2 ** int(math.log2((16 << 20) / (d * itemsize))), 1024), 16384)


class StoreLayout(BaseModel):
    """The immutable description of an activation store, kept in its `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """The language model that the activations come from."""
    hook_points: dict[str, int] = Field(min_length=1)
    """Hook point → activation width d."""
    dtype: DtypeName
    """How activations are kept on disk."""
    segments: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """Sequences of the first harvest, and of each extension."""
    context_length: int = Field(ge=1)
    """Tokens a sequence, at most."""
    seed: int
    """Of the order of the sequences in each segment, and of the rows in each part."""
    tokens_digest: str
    """Digest of the tokens artifact that the sequences come from."""
    chunk_rows: int = Field(ge=1)
    """C, the same for every hook point (see `default_chunk_rows`, for the widest of them)."""
    chunks_per_part: int = Field(ge=1)
    """W."""
    format_version: int = FORMAT_VERSION

    @model_validator(mode="after")
    def _a_part_holds_a_sequence(self) -> Self:
        if self.sequences_per_part < 1:
            raise ValueError(
                f"a part of {self.chunks_per_part} chunks × {self.chunk_rows} rows cannot hold one sequence "
                f"of {self.context_length} tokens: raise chunks_per_part"
            )
        return self

    @property
    def n_sequences(self) -> int:
        return sum(self.segments)

    @property
    def memory_dtype(self) -> torch.dtype:
        """What rows are in memory: int8 is undone when it is read."""
        return MEMORY_DTYPES[self.dtype]

    @property
    def part_rows(self) -> int:
        """Rows that a part has room for."""
        return self.chunk_rows * self.chunks_per_part

    @property
    def sequences_per_part(self) -> int:
        return self.part_rows // self.context_length

    @property
    def n_parts(self) -> int:
        return self._first_parts[-1]

    @cached_property
    def _first_parts(self) -> list[int]:
        """The number of each segment's first part; at the end, the number of parts."""
        return [0, *accumulate(math.ceil(n / self.sequences_per_part) for n in self.segments)]

    @cached_property
    def _orders(self) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
        """The sequences of each segment, shuffled."""
        starts = [0, *accumulate(self.segments)]
        return [
            start + torch.randperm(n, generator=seeded_generator("sequences", self.seed, segment)).numpy()
            for segment, (start, n) in enumerate(zip(starts, self.segments, strict=False))
        ]

    @property
    def capacity(self) -> int:
        """Rows that each array has room for while the store is written."""
        return self.n_parts * self.part_rows

    def part_sequences(self, part: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The sequences of a part, as indices into the tokens artifact: a slice of its segment's permutation."""
        segment = bisect_right(self._first_parts, part) - 1
        start = (part - self._first_parts[segment]) * self.sequences_per_part
        return self._orders[segment][start : start + self.sequences_per_part]

    def extends(self, other: Self) -> bool:
        """Whether a store of the layout `other` holds the first parts of this one, or all of them."""
        longer = {"segments": self.segments, "tokens_digest": self.tokens_digest}
        begins_alike = self.segments[: len(other.segments)] == other.segments
        return begins_alike and other.model_copy(update=longer) == self

    def bytes(self) -> int:
        """Bytes on disk before compression, row ids and norms included: what a plan should find free."""
        row = sum(d * _BYTES_PER_NUMBER[self.dtype] + 16 for d in self.hook_points.values())
        return self.n_sequences * self.context_length * row
