"""A small store whose rows can be recognised: their first two columns are exact functions of their id."""

import errno
import json
import multiprocessing
import uuid

import numpy as np
import pytest
import torch

from storage.activations import ActivationStore
from storage.layout import StoreLayout
from tests.storage.google_storage import GoogleStorage

HOOKS = {"blocks.0.hook_resid_post": 8, "blocks.1.hook_resid_post": 12}
HOOK = "blocks.0.hook_resid_post"

# Real processes, each forked from a clean one that has only imported what they need.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.storage.conftest", "storage.artifacts"])


def small_layout(**changes):
    """4 parts of 2 chunks of 32 rows; the 7 sequences of a part fill 63 of its 64 rows, 4 the last part."""
    layout = {
        "model": "test",
        "hook_points": HOOKS,
        "dtype": "float32",
        "segments": (25,),
        "context_length": 9,
        "seed": 3,
        "tokens_digest": "t",
        "chunk_rows": 32,
        "chunks_per_part": 2,
    }
    return StoreLayout(**layout | changes)


def rows_of(layout, part):
    """Activations and row ids of a part, a function of the ids alone."""
    sequences = layout.part_sequences(part)
    ids = np.stack(np.meshgrid(sequences, np.arange(layout.context_length), indexing="ij"), -1).reshape(-1, 2)
    activations = {}
    for d in set(layout.hook_points.values()):
        generator = torch.Generator().manual_seed(part)
        rows = torch.randn(len(ids), d, generator=generator)
        rows[:, 0] = torch.from_numpy(ids[:, 0]).float()  # ≤ 255: exact in every dtype
        rows[:, 1] = torch.from_numpy(ids[:, 1]).float()
        activations |= {name: rows for name, width in layout.hook_points.items() if width == d}
    return activations, ids


def write(root, layout):
    """Harvest: write what is missing, and seal."""
    store = ActivationStore.create(root, layout)
    for part in store.missing_parts():
        store.write_part(part, *rows_of(layout, part))
    store.seal()
    return ActivationStore.open(root)


def files_of(root):
    """{name: bytes} of every file under a directory."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def tokens_of(batches):
    """The (sequence, position) of every row of some batches, in order."""
    return [tuple(row) for batch in batches for row in batch[:, :2].int().tolist()]


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "store", small_layout())


@pytest.fixture
def google(monkeypatch):
    """A server that the environment leads to."""
    server = GoogleStorage()
    key = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(key))
    monkeypatch.setenv("GOOGLE_BASE_URL", server.url)
    yield server
    server.close()


@pytest.fixture
def google_bucket(google):
    """The URI of an empty bucket."""
    return f"gs://bucket-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def no_hard_links(monkeypatch):
    """As on exFAT."""

    def refuse(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(source), None, str(target))

    monkeypatch.setattr("os.link", refuse)
