"""Two processes write one store at the same time, and are killed two hundred times: no committed chunk is ever bad."""

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.activations import ActivationStore
from storage.commits import committed_parts
from storage.layout import StoreLayout
from tests.storage.conftest import PROCESSES, files_of, rows_of, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KILLS = 200
HOOK_POINTS = {"blocks.0.hook_resid_post": 16, "blocks.0.hook_mlp_out": 16}


def layout(seed: int) -> StoreLayout:
    return StoreLayout(
        model="test",
        hook_points=HOOK_POINTS,
        dtype="bfloat16",
        segments=(960,),
        context_length=16,
        seed=seed,
        tokens_digest="t",
        chunk_rows=256,
        chunks_per_part=2,
    )


def write_parts(root: Path, parts: list[int]) -> None:
    torch.set_num_threads(1)
    store = ActivationStore.join(root)
    for part in parts:
        store.write_part(part, *rows_of(store.layout, part))


def assert_it_holds_what_was_written(store: ActivationStore) -> None:
    for hook_point in HOOK_POINTS:
        read = list(store.iter_rows(hook_point))
        rows, row_ids = torch.cat([rows for rows, _ in read]), np.concatenate([ids for _, ids in read])
        found = dict(zip(map(tuple, row_ids.tolist()), rows, strict=True))
        assert len(found) == len(rows) == store.layout.n_sequences * store.layout.context_length
        for part in store.parts():
            activations, row_ids = rows_of(store.layout, part)
            expected = activations[hook_point].bfloat16().float()
            assert torch.equal(torch.stack([found[tuple(row_id)] for row_id in row_ids.tolist()]), expected)


def test_two_writers_killed_two_hundred_times_leave_no_bad_chunk(tmp_path: Path):
    moments = random.Random(0)
    kills = seed = interrupted = 0
    while kills < KILLS:
        root = tmp_path / str(seed)
        store = ActivationStore.create(root, layout(seed))
        known: set[int] = set()
        while missing := store.missing_parts():
            writers = [PROCESSES.Process(target=write_parts, args=(root, missing[i::2])) for i in range(2)]
            for writer in writers:
                writer.start()
            # From a condition on, not from a time: how long it takes to start depends on the machine.
            while len(committed_parts(store.location)) == len(known) and any(w.is_alive() for w in writers):
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.03))
            for writer in writers:
                writer.kill()
            for writer in writers:
                writer.join()
            kills += sum(writer.exitcode == -signal.SIGKILL for writer in writers)
            interrupted += any(name.endswith(".partial") for name in store.location.names())
            store = ActivationStore.create(root, layout(seed))
            committed = set(range(store.layout.n_parts)) - set(store.missing_parts())
            assert known <= committed, (
                "what is committed stays as it is, so that looking at it once at the end is enough"
            )
            known = committed
        store.seal()
        ActivationStore.open(root).verify()
        assert_it_holds_what_was_written(ActivationStore.open(root))
        seed += 1
    assert interrupted, "some were killed in the middle of a file"
    write(tmp_path / "undisturbed", layout(0))
    assert files_of(tmp_path / "0") == files_of(tmp_path / "undisturbed")
