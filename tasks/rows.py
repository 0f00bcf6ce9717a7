"""Rows of one hook point, as training and evaluation read them."""

from collections.abc import Iterator

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
