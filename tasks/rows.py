"""Rows of one hook point, as training and evaluation read them.

Shapes: S sequences, P positions, R rows of a chunk, d the hook point's width.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from storage.batches import BatchStream
from storage.row_filter import RowFilter
from tasks.caching import artifacts
from tasks.errors import ExperimentError

ROWS_TO_FIT_ON = 1 << 18  # enough for a mean, a scale and a covariance of any width


def stream(
    store: ActivationStore, hook_point: str, keep: RowFilter, batch_size: int, seed: int, device: str = "cpu"
) -> BatchStream:
    """Shuffled batches without end.

    Raises:
        ExperimentError: the rows that are kept do not fill one batch.
    """
    batches = BatchStream(store, hook_point, batch_size, seed=seed, keep=keep, device=device)
    if batches.batches_per_epoch == 0:
        raise ExperimentError(
            f"{hook_point} has fewer rows to train on than one batch of {batch_size}: lower training.batch_size, or "
            "harvest more tokens."
        )
    return batches


def open_store(activations: ArtifactRef, split: str, resident_bytes: int = 0) -> ActivationStore:
    return ActivationStore.open(artifacts().location(activations).child(split), resident_bytes)


def rows_to_fit_on(store: ActivationStore, hook_point: str, keep: RowFilter) -> Iterator[Tensor]:
    """The first chunks of a store, about ROWS_TO_FIT_ON rows: a random sample, since sequences are stored shuffled."""
    rows = 0
    for chunk, _ in store.iter_rows(hook_point, keep):
        yield chunk
        rows += len(chunk)
        if rows >= ROWS_TO_FIT_ON:
            return


def rows_of(
    store: ActivationStore, hook_point: str, keep: RowFilter, sequences_S: Int[np.ndarray, " S"]
) -> tuple[Float[Tensor, "S P d"], Bool[Tensor, "S P"]]:
    """Some sequences of a store, in float32, and which of their rows are kept; those that are not are zero."""
    layout = store.layout
    x_SPd = torch.zeros(len(sequences_S), layout.context_length, layout.hook_points[hook_point])
    kept_SP = torch.zeros(x_SPd.shape[:2], dtype=torch.bool)
    place = np.full(layout.n_sequences, -1)
    place[sequences_S] = np.arange(len(sequences_S))
    for x_Rd, ids_R2 in store.iter_rows(hook_point, keep):
        place_R = place[ids_R2[:, 0]]
        wanted_R = place_R >= 0
        at = torch.from_numpy(place_R[wanted_R]), torch.from_numpy(ids_R2[wanted_R, 1].astype(np.int64))
        x_SPd[at], kept_SP[at] = x_Rd[torch.from_numpy(wanted_R)], True
    return x_SPd, kept_SP


class LiveFilter(NamedTuple):
    """A row filter for activations that a pass computes: above the same norm as in the store a row is left out."""

    skip_first_position: bool
    norm_limit: float

    @classmethod
    def of(cls, store: ActivationStore, hook_point: str, keep: RowFilter) -> Self:
        ratio = keep.max_norm_ratio
        limit = math.inf if ratio is None else ratio * store.statistics(hook_point).norm_median
        return cls(keep.skip_first_position, limit)

    def kept(self, x_SPd: Float[Tensor, "S P d"]) -> Bool[Tensor, "S P"]:
        """The same in every pass, as long as nothing before the hook point is changed."""
        kept_SP = torch.linalg.vector_norm(x_SPd, dim=-1) <= self.norm_limit
        if self.skip_first_position:
            kept_SP[:, 0] = False
        return kept_SP
