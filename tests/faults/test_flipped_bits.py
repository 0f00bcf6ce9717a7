"""Three hundred flipped bits, one at a time: reading finds every one, and names the file."""

from pathlib import Path

import numpy as np
import pytest

from storage.activations import ActivationStore
from storage.errors import DamagedChunk
from storage.row_filter import RowFilter
from tests.storage.conftest import HOOKS, small_layout, write

FLIPS = 320


def read_everything(root: Path) -> None:
    store = ActivationStore.open(root)
    for hook_point in HOOKS:
        for _ in store.iter_rows(hook_point, RowFilter()):
            pass


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_every_flipped_bit_is_found_by_whoever_reads_it(tmp_path: Path, dtype: str):
    write(tmp_path, small_layout(dtype=dtype))
    read_everything(tmp_path)
    kinds = ["acts", "row_id", "norm"] + (["scale", "mean", "spread"] if dtype == "int8" else [])
    files = [sorted((tmp_path / "commits").iterdir())]
    files += [sorted(f for f in (tmp_path / "data.zarr").rglob(f"{kind}/c/**/*") if f.is_file()) for kind in kinds]
    assert all(files)
    rng = np.random.default_rng(0)
    for flip in range(FLIPS // 2):
        of_a_kind = files[flip % len(files)]
        file = of_a_kind[rng.integers(len(of_a_kind))]
        intact = file.read_bytes()
        damaged = bytearray(intact)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        with pytest.raises(DamagedChunk) as error:
            read_everything(tmp_path)
        assert error.value.file == str(file)
        file.write_bytes(intact)
    read_everything(tmp_path)
