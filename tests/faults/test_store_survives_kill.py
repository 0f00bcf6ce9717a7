"""kill -9 of a process that builds an activations artifact, at random moments, until one gets through."""

import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from storage.activations import ActivationStore
from storage.artifacts import ArtifactStore
from storage.layout import StoreLayout
from tests.storage.conftest import PROCESSES, files_of, rows_of

LAYOUT = StoreLayout(
    model="test",
    hook_points={"blocks.0.hook_resid_post": 32, "blocks.0.hook_mlp_out": 32},
    dtype="bfloat16",
    segments=(768,),
    context_length=16,
    seed=0,
    tokens_digest="t",
    chunk_rows=256,
    chunks_per_part=2,
)
STARTED, PART, ALL_PARTS = "started", "a part is committed", "all parts are committed"


def harvest(home: Path, progress: Connection) -> None:
    """Build the artifact, or go on with it, and tell how far it is."""

    def write(place: Path) -> None:
        store = ActivationStore.create(place / "store", LAYOUT)
        for part in store.missing_parts():
            store.write_part(part, *rows_of(LAYOUT, part))
            progress.send(PART)
        progress.send(ALL_PARTS)
        store.seal()

    progress.send(STARTED)
    ArtifactStore(home).build("activations", "k", write, code_version="1", spec={}, inputs={}, resumable=True)


def start(home: Path):
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=harvest, args=(home, sender))
    process.start()
    sender.close()
    return process, receiver


def wait_for(message: str, progress: Connection) -> None:
    """Raises EOFError if the build ended without this message."""
    while progress.recv() != message:
        pass


def test_a_build_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path):
    process, progress = start(tmp_path / "undisturbed")
    wait_for(STARTED, progress)
    started = time.monotonic()
    wait_for(PART, progress)
    first_part = time.monotonic()
    wait_for(ALL_PARTS, progress)
    all_parts = time.monotonic()
    process.join()
    # For each place to be killed in: after which message, and how long that stretch takes.
    opening = [(STARTED, first_part - started)] * 4
    writing = [(PART, 2 * (all_parts - first_part) / LAYOUT.n_parts)] * 6
    sealing = [(ALL_PARTS, (time.monotonic() - all_parts) / 2)] * 4

    moments = random.Random(0)
    for message, stretch in [*opening, *writing, *sealing]:
        process, progress = start(tmp_path / "killed")
        try:
            wait_for(message, progress)
        except EOFError:  # on a machine whose pace changes, what is left may be less than planned
            process.join()
            break
        time.sleep(moments.uniform(0, stretch))
        process.kill()
        process.join()
        if ArtifactStore(tmp_path / "killed").find("activations", "k"):  # raises if it is there and not whole
            assert message == ALL_PARTS  # the last stretch is short: a build may get through it
            break
        assert process.exitcode == -signal.SIGKILL

    process, _ = start(tmp_path / "killed")
    process.join()
    assert process.exitcode == 0
    resumed = ArtifactStore(tmp_path / "killed").find("activations", "k")
    assert resumed is not None
    assert resumed == ArtifactStore(tmp_path / "undisturbed").find("activations", "k")
    place = "activations/k/store"
    assert files_of(tmp_path / "killed" / place) == files_of(tmp_path / "undisturbed" / place)

    store = ActivationStore.open(tmp_path / "killed" / place)
    store.verify()
    ids = np.concatenate([ids for _, ids in store.iter_rows("blocks.0.hook_mlp_out")])
    assert len(np.unique(ids, axis=0)) == store.n_rows == 768 * 16
