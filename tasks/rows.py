"""Rows of one hook point, as training and evaluation read them."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from storage.row_filter import RowFilter
from tasks.caching import artifacts
from tasks.errors import ExperimentError

ROWS_TO_FIT_ON = 1 << 18  # enough for a mean, a scale and a covariance of any width


class BatchStream:
    """Shuffled batches without end, epoch after epoch; where it stands is two small integers."""

    def __init__(self, store: ActivationStore, hook_point: str, keep: RowFilter, batch_size: int, seed: int) -> None:
        self.store, self.hook_point, self.keep = store, hook_point, keep
        self.batch_size, self.seed = batch_size, seed
        self.epoch = 0
        self.batch = 0

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            for rows in self.store.iter_batches(
                self.hook_point,
                self.batch_size,
                seed=self.seed,
                epoch=self.epoch,
                keep=self.keep,
                start_batch=self.batch,
            ):
                self.batch += 1
                yield rows
            if self.batch == 0:
                raise ExperimentError(
                    f"{self.hook_point} has fewer rows to train on than one batch of {self.batch_size}: lower "
                    "training.batch_size, or harvest more tokens."
                )
            self.epoch, self.batch = self.epoch + 1, 0


def open_store(activations: ArtifactRef, split: str) -> ActivationStore:
    return ActivationStore.open(Path(artifacts().path(activations)) / split)


def rows_to_fit_on(store: ActivationStore, hook_point: str, keep: RowFilter) -> Iterator[Tensor]:
    """The first chunks of a store, about ROWS_TO_FIT_ON rows: a random sample, since sequences are stored shuffled."""
    rows = 0
    for chunk, _ in store.iter_rows(hook_point, keep):
        yield chunk
        rows += len(chunk)
        if rows >= ROWS_TO_FIT_ON:
            return
