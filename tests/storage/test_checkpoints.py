"""Checkpoints and tables: what was saved, or an error that names the file."""

import re

import numpy as np
import pytest
import torch

from storage.checkpoints import load_checkpoint, save_checkpoint
from storage.errors import OutOfSpace, StorageError
from storage.tables import read_table, write_table
from tests.storage.test_activations import file_size_limit

TENSORS = {
    "weights": torch.randn(5, 7, generator=torch.Generator().manual_seed(0)),
    "half": torch.arange(6).to(torch.bfloat16).reshape(2, 3).T,
    "step": torch.tensor(3),
    "rng": torch.Generator().manual_seed(1).get_state(),
    "empty": torch.empty(0, 4),
}
STATE = {"step": 17, "lr": 1e-3, "history": [1.5, None], "names": {"9": "a", "10": "b"}}


def test_a_checkpoint_comes_back_exactly(tmp_path):
    save_checkpoint(tmp_path / "c", TENSORS, STATE)
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded is not None
    tensors, state = loaded
    assert state == STATE
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype


def test_equal_checkpoints_are_equal_files_and_replace_each_other_whole(tmp_path):
    for name in ("a", "b", "a"):
        save_checkpoint(tmp_path / name, TENSORS, STATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert load_checkpoint(tmp_path / "c") is None


def test_every_flipped_bit_in_a_checkpoint_is_found(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, TENSORS, STATE)
    intact = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(intact)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=re.escape(str(path))):
            load_checkpoint(path)
    path.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(StorageError, match="damaged"):
        load_checkpoint(path)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    save_checkpoint(tmp_path / "c", {"x": torch.zeros(3)}, {"step": 1})
    with file_size_limit(1000), pytest.raises(OutOfSpace, match="bytes were to be written"):
        save_checkpoint(tmp_path / "c", {"x": torch.zeros(3000)}, {"step": 2})
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded is not None
    assert loaded[1] == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_table_is_the_same_from_columns_and_from_rows(tmp_path):
    write_table(tmp_path / "a.parquet", {"feature": np.arange(3), "name": ["x", None, "z"]})
    write_table(tmp_path / "b.parquet", [{"feature": i, "name": n} for i, n in enumerate(["x", None, "z"])])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_table(tmp_path / "a.parquet").to_pydict() == {"feature": [0, 1, 2], "name": ["x", None, "z"]}
