"""Reading: every kept row once an epoch, in a random order that is a function of the arguments."""

import shutil
import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch

from storage.activations import ActivationStore
from storage.errors import DamagedChunk, StorageError
from storage.row_filter import RowFilter
from tests.storage.conftest import HOOK, HOOKS, rows_of, small_layout, tokens_of, write


@pytest.mark.parametrize("batch_size", [7, 32, 150])
def test_every_row_is_read_once_an_epoch_but_for_the_last_incomplete_batch(store, batch_size):
    batches = list(store.iter_batches(HOOK, batch_size, seed=0, buffer_chunks=2))
    assert all(batch.shape == (batch_size, 8) and batch.dtype == torch.float32 for batch in batches)
    tokens = tokens_of(batches)
    assert len(tokens) == len(set(tokens)) == store.n_rows // batch_size * batch_size


def test_batches_follow_from_seed_and_epoch_alone(store):
    def tokens(seed, epoch):
        return tokens_of(store.iter_batches(HOOK, 9, seed=seed, epoch=epoch))

    assert tokens(0, 0) == tokens(0, 0)
    assert tokens(0, 0) != tokens(0, 1)
    assert tokens(0, 0) != tokens(1, 0)
    assert sorted(tokens(0, 0)) == sorted(tokens(0, 1))  # 225 rows: no tail to drop


def test_hook_points_are_read_in_the_same_order(store):
    a, b = (tokens_of(store.iter_batches(hook_point, 16, seed=5)) for hook_point in HOOKS)
    assert a == b


@pytest.mark.parametrize("keep", [None, RowFilter()])
def test_starting_at_batch_n_gives_what_follows_n_batches(store, keep):
    batches = list(store.iter_batches(HOOK, 9, seed=1, epoch=2, keep=keep, buffer_chunks=2))
    for start in (0, 1, 5, len(batches) - 1, len(batches), len(batches) + 3):
        rest = list(store.iter_batches(HOOK, 9, seed=1, epoch=2, keep=keep, buffer_chunks=2, start_batch=start))
        assert len(rest) == max(0, len(batches) - start)
        assert all(torch.equal(x, y) for x, y in zip(rest, batches[start:], strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_rows_and_get_equally_many_batches(store, world):
    for epoch in range(3):
        ranks = [
            list(store.iter_batches(HOOK, 8, seed=0, epoch=epoch, rank=rank, world=world)) for rank in range(world)
        ]
        assert {len(batches) for batches in ranks} == {store.batches_per_epoch(HOOK, 8, world=world)}
        tokens = tokens_of(batch for batches in ranks for batch in batches)
        assert len(tokens) == len(set(tokens))


def test_a_rank_that_does_not_exist_is_refused(store):
    with pytest.raises(StorageError, match="rank 2 of 2"):
        store.iter_batches(HOOK, 8, seed=0, rank=2, world=2)


@pytest.mark.parametrize("keep", [None, RowFilter()])
def test_rows_that_stay_in_memory_are_read_once_and_give_the_same_batches(tmp_path, keep):
    store = write(tmp_path, small_layout())
    expected = [list(store.iter_batches(HOOK, 9, seed=0, epoch=epoch, keep=keep)) for epoch in range(2)]
    resident = ActivationStore.open(tmp_path, resident_bytes=225 * 8 * 4)
    found = [list(resident.iter_batches(HOOK, 9, seed=0, epoch=0, keep=keep))]
    for chunk in (tmp_path / "data.zarr" / HOOK / "acts" / "c").rglob("0"):
        if chunk.is_file():
            chunk.unlink()
    found.append(list(resident.iter_batches(HOOK, 9, seed=0, epoch=1, keep=keep)))
    assert all(torch.equal(torch.cat(a), torch.cat(b)) for a, b in zip(found, expected, strict=True))


def test_rows_that_do_not_fit_the_memory_budget_are_read_each_time(tmp_path):
    write(tmp_path, small_layout())
    store = ActivationStore.open(tmp_path, resident_bytes=225 * 8 * 4 - 1)
    list(store.iter_batches(HOOK, 9, seed=0))
    shutil.rmtree(tmp_path / "data.zarr" / HOOK / "acts" / "c")
    with pytest.raises(DamagedChunk):
        list(store.iter_batches(HOOK, 9, seed=0))


def test_batches_are_nearly_as_varied_as_independent_rows(tmp_path):
    """deff: the variance of batch means relative to that of independent rows; reading in order has 64."""
    layout = small_layout(hook_points={HOOK: 4}, segments=(1024,), context_length=64, chunk_rows=512, chunks_per_part=8)
    store = ActivationStore.create(tmp_path, layout)
    effect = torch.randn(layout.n_sequences, 4, generator=torch.Generator().manual_seed(0))
    for part in range(layout.n_parts):
        _, ids = rows_of(layout, part)
        store.write_part(part, {HOOK: effect[ids[:, 0]]}, ids)  # all tokens of a sequence alike: the worst case
    means = torch.cat([torch.stack([b.mean(0) for b in store.iter_batches(HOOK, 256, seed=s)]) for s in range(4)])
    deff = (means.var(0) / (effect.var(0) / 256)).mean()
    assert deff < 2.0


def test_rows_left_out_are_counted_and_not_read(tmp_path):
    layout = small_layout()
    writer = ActivationStore.create(tmp_path, layout)
    for part in writer.missing_parts():
        activations, ids = rows_of(layout, part)
        sinks = (ids[:, 0] % 10 == 0) & ((ids[:, 1] == 0) | (ids[:, 1] == 3))
        activations = {name: rows.clone() for name, rows in activations.items()}
        activations[HOOK][torch.from_numpy(sinks)] *= 1e4
        activations[HOOK][torch.from_numpy(sinks), 2] = 1e5
        writer.write_part(part, activations, ids)
    writer.seal()
    store = ActivationStore.open(tmp_path)
    n_sinks = 3  # sequences 0, 10, 20
    everything = {"first_position": 25, "norm": n_sinks, "kept": 225 - 25 - n_sinks}
    assert store.count_left_out(HOOK, RowFilter()) == everything
    assert store.count_left_out(HOOK, RowFilter(skip_first_position=False))["norm"] == 2 * n_sinks
    assert store.count_left_out(HOOK, RowFilter(max_norm_ratio=None))["kept"] == 200
    ids = np.concatenate([ids for _, ids in store.iter_rows(HOOK, RowFilter())])
    assert len(ids) == everything["kept"]
    assert not (ids[:, 1] == 0).any()
    batches = torch.cat(list(store.iter_batches(HOOK, 1, seed=0, keep=RowFilter())))
    assert len(batches) == everything["kept"]
    assert batches.abs().max() < 1e3


def test_statistics_are_those_of_all_rows(tmp_path):
    layout = small_layout(chunk_rows=4096 + 512, segments=(200,), context_length=100, chunks_per_part=1)
    store = write(tmp_path, layout)
    rows = torch.cat([acts for acts, _ in store.iter_rows(HOOK)])
    found = store.statistics(HOOK)
    norms = rows.norm(dim=1)
    assert found.n_rows == len(rows) == 20000
    torch.testing.assert_close(found.mean, rows.mean(0))
    torch.testing.assert_close(found.std, rows.std(0, correction=0))
    assert found.absmax == rows.abs().max()
    assert found.norm_max == pytest.approx(norms.max().item())
    assert found.norm_median == pytest.approx(norms.median().item(), rel=0.05)


def test_a_misspelt_hook_point_lists_the_nearest(store):
    with pytest.raises(
        StorageError, match=r"no hook point 'blocks.1.hook_resid_pst'.*Nearest: blocks.1.hook_resid_post"
    ):
        store.iter_batches("blocks.1.hook_resid_pst", 4, seed=0)


def test_a_batch_larger_than_the_store_is_refused(store):
    with pytest.raises(StorageError, match=r"225 rows .* make no batch of 226"):
        store.iter_batches(HOOK, 226, seed=0)


def test_stopping_early_ends_the_reading_thread(store):
    batches = store.iter_batches(HOOK, 4, seed=0, buffer_chunks=2)
    list(islice(batches, 2))
    assert any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
    started = time.monotonic()
    del batches
    assert time.monotonic() - started < 1
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
