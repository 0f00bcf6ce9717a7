"""Batches without end, and the rows alone."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from storage.batches import ActivationDataset, BatchStream, RowsView
from storage.row_filter import RowFilter
from tests.storage.conftest import HOOK, tokens_of


@pytest.mark.parametrize("keep", [None, RowFilter()])
def test_a_stream_goes_on_from_any_position_with_the_same_batches(store, keep):
    stream = BatchStream(store, HOOK, 9, seed=1, keep=keep)
    batches = list(islice(stream, 60))
    assert stream.position == 60 > 2 * stream.batches_per_epoch
    for position in (0, 7, stream.batches_per_epoch, 2 * stream.batches_per_epoch + 3):
        rest = islice(BatchStream(store, HOOK, 9, seed=1, keep=keep, position=position), 5)
        assert all(torch.equal(a, b) for a, b in zip(rest, batches[position:], strict=False))


def test_a_stream_is_one_epoch_after_another(store):
    stream = BatchStream(store, HOOK, 16, seed=2)
    per_epoch = stream.batches_per_epoch
    assert per_epoch == 225 // 16
    batches = list(islice(stream, 2 * per_epoch))
    for epoch in range(2):
        expected = store.iter_batches(HOOK, 16, seed=2, epoch=epoch)
        assert tokens_of(batches[epoch * per_epoch : (epoch + 1) * per_epoch]) == tokens_of(expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_every_row_once_whatever_its_workers(store, workers):
    dataset = ActivationDataset(store.location.uri, HOOK, 5, seed=0)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context="forkserver" if workers else None
    )
    tokens = tokens_of(loader)
    assert len(tokens) == len(set(tokens)) >= 190


def test_the_rows_are_an_array_that_is_read_as_it_is_indexed(store):
    view = RowsView(store, HOOK)
    rows = np.concatenate([acts.numpy() for acts, _ in store.iter_rows(HOOK)])
    ids = np.concatenate([ids for _, ids in store.iter_rows(HOOK)])
    assert view.shape == rows.shape == (225, 8)
    assert len(view) == 225
    assert np.array_equal(np.asarray(view), rows)
    for index in (slice(20, 150), slice(None, None, 7), slice(-3, None), slice(10, 5), 0, 63, -1):
        assert np.array_equal(view[index], rows[index])
    assert np.array_equal(view.row_ids(30, 140), ids[30:140])
    with pytest.raises(IndexError):
        view[225]
    with pytest.raises(IndexError, match="forwards"):
        view[::-1]
