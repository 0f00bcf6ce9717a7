"""What an activation store will hold, fixed before the first row: everything else follows from it.

Sequences are shuffled once, globally. The shuffled order is cut into *parts*: the unit of writing, committing
and resuming. A part owns `chunks_per_part` chunks of `chunk_rows` rows in every array, whether it fills them
or not, so parts never share a file.
"""

import math
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.seeds import seeded_generator

FORMAT_VERSION = 1

DtypeName = Literal["bfloat16", "float16", "float32"]
TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


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
    n_sequences: int = Field(ge=1)
    context_length: int = Field(ge=1)
    """Tokens a sequence, at most."""
    seed: int
    """Of the order of the sequences, and of the rows inside each part."""
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
    def torch_dtype(self) -> torch.dtype:
        return TORCH_DTYPES[self.dtype]

    @property
    def part_rows(self) -> int:
        """Rows that a part has room for."""
        return self.chunk_rows * self.chunks_per_part

    @property
    def sequences_per_part(self) -> int:
        return self.part_rows // self.context_length

    @property
    def n_parts(self) -> int:
        return math.ceil(self.n_sequences / self.sequences_per_part)

    @cached_property
    def _order(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        generator = seeded_generator("sequences", self.seed)
        return torch.randperm(self.n_sequences, generator=generator).numpy()

    @property
    def capacity(self) -> int:
        """Rows that each array has room for while the store is written."""
        return self.n_parts * self.part_rows

    def part_sequences(self, part: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The sequences of a part, as indices into the tokens artifact: a slice of one global permutation."""
        return self._order[part * self.sequences_per_part : (part + 1) * self.sequences_per_part]

    def bytes(self) -> int:
        """Bytes on disk before compression, row ids included: what a plan should find free."""
        row = sum(d * self.torch_dtype.itemsize + 2 * 4 for d in self.hook_points.values())
        return self.n_sequences * self.context_length * row
