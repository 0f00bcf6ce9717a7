"""Writing: what is committed is what was given, once, whatever happened in between."""

import json
import logging
import resource
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import zarr
from pydantic import ValidationError

from storage.activations import ActivationStore
from storage.errors import DamagedChunk, OutOfSpace, StorageError
from storage.layout import StoreLayout, default_chunk_rows
from storage.locations import LocalDirectory
from storage.records import pack_readable_record
from storage.row_filter import RowFilter
from tests.storage.conftest import HOOK, HOOKS, PROCESSES, files_of, rows_of, small_layout, write


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_row_comes_back_as_the_dtype_keeps_it(tmp_path, dtype):
    layout = small_layout(dtype=dtype)
    store = write(tmp_path, layout)
    for hook_point in HOOKS:
        expected = {}
        for part in range(layout.n_parts):
            activations, ids = rows_of(layout, part)
            kept = activations[hook_point].to(layout.memory_dtype).float()
            expected |= {tuple(i): row for i, row in zip(ids.tolist(), kept, strict=True)}
        found = {
            tuple(i): row
            for acts, ids in store.iter_rows(hook_point)
            for i, row in zip(ids.tolist(), acts, strict=True)
        }
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[i], expected[i]) for i in expected)
    assert store.n_rows == 25 * 9


def test_int8_loses_a_ten_thousandth_of_the_variance_and_says_so(tmp_path):
    """Dimensions of very different sizes, and a few rows with huge norms, as in a residual stream."""
    layout = small_layout(dtype="int8", hook_points={HOOK: 64}, segments=(400,), chunk_rows=256)
    sizes = torch.logspace(-2, 2, 64)
    writer = ActivationStore.create(tmp_path, layout)
    given = {}
    for part in writer.missing_parts():
        _, ids = rows_of(layout, part)
        rows = torch.randn(len(ids), 64, generator=torch.Generator().manual_seed(part)) * sizes + 3 * sizes
        rows[ids[:, 1] == 0] *= 300
        given |= {tuple(i): row for i, row in zip(ids.tolist(), rows, strict=True)}
        writer.write_part(part, {HOOK: rows}, ids)
    writer.seal()
    store = ActivationStore.open(tmp_path)
    read = [(acts, ids) for acts, ids in store.iter_rows(HOOK)]
    found, ids = torch.cat([acts for acts, _ in read]), np.concatenate([ids for _, ids in read])
    expected = torch.stack([given[tuple(i)] for i in ids.tolist()])
    error = (found - expected).square()
    assert error.sum() / (found - found.mean(0)).square().sum() == pytest.approx(
        store.statistics(HOOK).lost_variance, rel=1e-3
    )
    usual = torch.from_numpy(ids[:, 1] != 0)
    lost = error[usual].sum(0) / (expected[usual] - expected[usual].mean(0)).square().sum(0)
    assert lost.max() < 4e-4, "in the smallest dimension too"
    assert lost.mean() < 1.5e-4


def test_what_a_float_dtype_lost_is_recorded(tmp_path):
    exact = write(tmp_path / "float32", small_layout())
    assert exact.statistics(HOOK).lost_variance == 0
    rounded = write(tmp_path / "bfloat16", small_layout(dtype="bfloat16"))
    assert 0 < rounded.statistics(HOOK).lost_variance < 1e-5


def test_sequences_are_spread_over_parts_at_random_and_each_is_in_one_part():
    layout = small_layout(segments=(200,))
    parts = [layout.part_sequences(part) for part in range(layout.n_parts)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(200))
    assert np.ptp(parts[0]) > 50
    other_seed = small_layout(segments=(200,), seed=4)
    assert not np.array_equal(parts[0], other_seed.part_sequences(0))


def test_rows_are_permuted_inside_a_part_alike_at_every_hook_point(store):
    (first, ids_a), (second, ids_b) = (next(store.iter_rows(hook_point)) for hook_point in HOOKS)
    assert np.array_equal(ids_a, ids_b)
    assert torch.equal(first[:, :2], second[:, :2])
    assert not np.array_equal(ids_a, np.sort(ids_a, axis=0))


def test_a_stock_zarr_reader_sees_the_rows_and_nothing_behind_them(tmp_path):
    layout = small_layout(dtype="bfloat16")
    store = write(tmp_path, layout)
    array = zarr.open_array(tmp_path / "data.zarr", path=f"{HOOK}/acts", mode="r")
    assert array.attrs["logical_dtype"] == "bfloat16"
    assert array.shape == (3 * 64 + 4 * 9, 8)  # three parts, and the rows of the last
    bits = torch.from_numpy(np.asarray(array[:32])).view(torch.bfloat16).float()
    assert torch.equal(bits, next(store.iter_rows(HOOK))[0])


def test_chunks_are_about_16_mib():
    assert default_chunk_rows(576, 2) == 8192
    assert default_chunk_rows(64, 2) == 16384
    assert default_chunk_rows(65536, 4) == 1024


def test_a_part_that_cannot_hold_one_sequence_is_refused():
    with pytest.raises(ValidationError, match="raise chunks_per_part"):
        small_layout(context_length=65)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_name(tmp_path, bad):
    layout = small_layout()
    writer = ActivationStore.create(tmp_path, layout)
    activations, ids = rows_of(layout, 0)
    activations[HOOK][13, 5] = bad
    with pytest.raises(StorageError, match=rf"{HOOK}, sequence {ids[13, 0]}, position {ids[13, 1]}: .*NaN"):
        writer.write_part(0, activations, ids)
    assert 0 in writer.missing_parts()


def test_what_does_not_fit_float16_is_refused_with_advice(tmp_path):
    layout = small_layout(dtype="float16")
    writer = ActivationStore.create(tmp_path, layout)
    activations, ids = rows_of(layout, 0)
    activations[HOOK][2, 3] = -70000.0
    with pytest.raises(StorageError, match=r"70000 does not fit .*bfloat16"):
        writer.write_part(0, activations, ids)


def test_rows_that_do_not_belong_to_the_part_are_refused(tmp_path):
    layout = small_layout()
    writer = ActivationStore.create(tmp_path, layout)
    activations, ids = rows_of(layout, 0)
    with pytest.raises(StorageError, match="sequences that are not in part 1"):
        writer.write_part(1, activations, ids)
    with pytest.raises(StorageError, match="must hold"):
        writer.write_part(0, {HOOK: activations[HOOK]}, ids)
    writer.write_part(0, activations, ids)
    with pytest.raises(StorageError, match=r"part 0 .* is committed"):
        writer.write_part(0, activations, ids)


def test_a_store_of_another_layout_is_left_alone(tmp_path):
    write(tmp_path, small_layout())
    before = files_of(tmp_path)
    with pytest.raises(StorageError, match="seed 3 instead of 4"):
        ActivationStore.create(tmp_path, small_layout(seed=4))
    assert files_of(tmp_path) == before


def test_what_is_not_a_complete_store_is_not_read(tmp_path):
    with pytest.raises(StorageError, match="no activation store"):
        ActivationStore.open(tmp_path)
    writer = ActivationStore.create(tmp_path, small_layout())
    with pytest.raises(StorageError, match="not complete"):
        ActivationStore.open(tmp_path)
    with pytest.raises(StorageError, match=r"parts \[0, 1, 2, 3\] are missing"):
        writer.seal()


@pytest.mark.parametrize("version", [1, 7])
def test_another_format_version_is_named(tmp_path, version: int):
    write(tmp_path, small_layout())
    content = small_layout().model_dump() | {"format_version": version}
    (tmp_path / "manifest.json").write_bytes(pack_readable_record(content))
    with pytest.raises(StorageError, match=f"format version {version}"):
        ActivationStore.open(tmp_path)


def test_an_interrupted_store_ends_as_an_undisturbed_one(tmp_path):
    layout = small_layout()
    write(tmp_path / "undisturbed", layout)
    writer = ActivationStore.create(tmp_path / "interrupted", layout)
    for part in (2, 0):
        writer.write_part(part, *rows_of(layout, part))
    # What a kill can leave: temporary files, and chunks that were never committed.
    acts = tmp_path / "interrupted/data.zarr" / HOOK / "acts/c"
    shutil.copytree(acts / "0", acts / "2")
    (acts / "2" / "0.123.partial").write_bytes(b"torn")
    (tmp_path / "interrupted/commits/000001.json.partial").write_bytes(b"torn")
    resumed = ActivationStore.create(tmp_path / "interrupted", layout)
    assert resumed.missing_parts() == [1, 3]
    write(tmp_path / "interrupted", layout)
    assert files_of(tmp_path / "interrupted") == files_of(tmp_path / "undisturbed")


@pytest.mark.parametrize("part", [0, 3])
def test_a_missing_chunk_is_written_again_with_the_same_bytes(tmp_path, part):
    layout = small_layout()
    write(tmp_path, layout)
    before = files_of(tmp_path)
    (tmp_path / "data.zarr" / HOOK / "row_id/c" / str(2 * part) / "0").unlink()
    assert ActivationStore.create(tmp_path, layout).missing_parts() == [part]
    write(tmp_path, layout)
    assert files_of(tmp_path) == before


def test_a_missing_or_damaged_record_is_written_again(tmp_path):
    layout = small_layout()
    write(tmp_path, layout)
    before = files_of(tmp_path)
    (tmp_path / "commits/000001.json").write_bytes(b"{}")
    for name in ("manifest.json", "sealed.json", "commits/000002.json", f"data.zarr/{HOOK}/acts/zarr.json"):
        (tmp_path / name).unlink()
    assert ActivationStore.create(tmp_path, layout).missing_parts() == [1, 2]
    write(tmp_path, layout)
    assert files_of(tmp_path) == before


def test_every_flipped_bit_is_found_and_its_file_named(tmp_path):
    store = write(tmp_path, small_layout(dtype="bfloat16"))
    store.verify()
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    for path in [*files, *rng.choice(np.array(files), 60)]:  # every file once, and then some
        intact = path.read_bytes()
        damaged = bytearray(intact)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedChunk) as error:
            ActivationStore.open(tmp_path).verify()
        assert error.value.file == str(path)
        path.write_bytes(intact)
    store.verify()


def test_two_chunks_that_changed_places_are_found(store, tmp_path):
    chunks = tmp_path / "store/data.zarr" / HOOK / "row_id/c"
    first, third = ((chunks / i / "0").read_bytes() for i in ("0", "2"))
    (chunks / "0" / "0").write_bytes(third)
    (chunks / "2" / "0").write_bytes(first)
    with pytest.raises(DamagedChunk, match=HOOK):
        store.verify()


@pytest.mark.parametrize("array", ["acts", "row_id", "norm", "scale", "mean", "spread"])
def test_a_damaged_or_missing_chunk_is_never_read_as_data(tmp_path, array):
    write(tmp_path, small_layout(dtype="int8"))
    file = f"data.zarr/{HOOK}/{array}/c/{1 if array in ('mean', 'spread') else 3}"
    chunk = next(path for path in [tmp_path / file / "0", tmp_path / file] if path.is_file())
    where = rf"{chunk.relative_to(tmp_path)} \(hook point {HOOK}, part 1\)"
    intact = chunk.read_bytes()
    chunk.write_bytes(intact[:20] + bytes([intact[20] ^ 4]) + intact[21:])
    with pytest.raises(DamagedChunk, match=where):
        list(ActivationStore.open(tmp_path).iter_rows(HOOK, RowFilter()))
    chunk.unlink()
    with pytest.raises(DamagedChunk, match=f"{where}.*missing"):
        list(ActivationStore.open(tmp_path).iter_batches(HOOK, 16, seed=0, keep=RowFilter()))
    chunk.write_bytes(intact)
    store = ActivationStore.open(tmp_path)
    assert sum(len(rows) for rows, _ in store.iter_rows(HOOK)) == store.n_rows


@contextmanager
def file_size_limit(size):
    """No file may grow past `size`: the kernel fails the write, as on a full disk, and nobody needs root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_the_harvest_goes_on_once_there_is_room(tmp_path):
    layout = small_layout()
    write(tmp_path / "undisturbed", layout)
    writer = ActivationStore.create(tmp_path / "full", layout)
    writer.write_part(0, *rows_of(layout, 0))
    with file_size_limit(500), pytest.raises(OutOfSpace, match="full") as error:
        writer.write_part(1, *rows_of(layout, 1))
    assert error.value.needed > 500
    assert ActivationStore.create(tmp_path / "full", layout).missing_parts() == [1, 2, 3]
    write(tmp_path / "full", layout)
    assert files_of(tmp_path / "full") == files_of(tmp_path / "undisturbed")


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_store_is_extended_by_writing_only_the_new_parts(tmp_path, dtype):
    first = write(tmp_path / "first", small_layout(dtype=dtype))
    longer = small_layout(dtype=dtype, segments=(25, 11), tokens_digest="more")
    writer = ActivationStore.create(tmp_path / "longer", longer)
    writer.adopt(first)
    assert writer.missing_parts() == [4, 5]
    write(tmp_path / "longer", longer)
    write(tmp_path / "at once", longer)
    assert files_of(tmp_path / "longer") == files_of(tmp_path / "at once")
    acts = f"data.zarr/{HOOK}/acts/c/0/0"
    assert (tmp_path / "first" / acts).samefile(tmp_path / "longer" / acts), "no byte is there twice"
    first.verify()


def test_sequences_of_an_extension_are_in_parts_of_its_own():
    layout = small_layout(segments=(25, 11))
    parts = [layout.part_sequences(part) for part in range(layout.n_parts)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(36))
    assert all((part < 25).all() or (part >= 25).all() for part in parts)
    before = small_layout()
    assert all(np.array_equal(parts[part], before.part_sequences(part)) for part in range(before.n_parts))


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_part_that_is_damaged_in_the_store_it_comes_from_is_written_anew(tmp_path, caplog, how):
    first = write(tmp_path / "first", small_layout())
    longer = small_layout(segments=(25, 11), tokens_digest="more")
    write(tmp_path / "at once", longer)
    chunk = tmp_path / "first/data.zarr" / HOOK / "acts/c/2/0"
    data = bytearray(chunk.read_bytes())
    data[20] ^= 4
    chunk.unlink()
    if how == "flipped":
        chunk.write_bytes(data)
    writer = ActivationStore.create(tmp_path / "longer", longer)
    with caplog.at_level(logging.WARNING, "saeflow.storage"):
        writer.adopt(first)
    assert writer.missing_parts() == [1, 4, 5]
    assert f"part 1 is written anew: {chunk}" in caplog.text
    write(tmp_path / "longer", longer)
    assert files_of(tmp_path / "longer") == files_of(tmp_path / "at once")


def test_only_the_beginning_of_a_store_can_be_adopted(tmp_path):
    first = write(tmp_path / "first", small_layout())
    for other in ({"segments": (26, 11)}, {"segments": (25, 11), "seed": 4}):
        writer = ActivationStore.create(tmp_path / str(other), small_layout(**other))
        with pytest.raises(StorageError, match="not the beginning"):
            writer.adopt(first)


def test_a_part_that_another_process_has_written_is_left_as_it_is(tmp_path):
    layout = small_layout()
    creator = ActivationStore.create(tmp_path, layout)
    one, other = ActivationStore.join(tmp_path), ActivationStore.join(tmp_path)
    one.write_part(1, *rows_of(layout, 1))
    before = files_of(tmp_path)
    activations, ids = rows_of(layout, 1)
    other.write_part(1, {name: rows + 1 for name, rows in activations.items()}, ids)
    assert files_of(tmp_path) == before
    for part in (0, 2, 3):
        one.write_part(part, *rows_of(layout, part))
    creator.seal()
    ActivationStore.open(tmp_path).verify()


def test_two_processes_that_write_other_bytes_at_the_same_time_are_told(tmp_path, monkeypatch):
    layout = small_layout()
    creator = ActivationStore.create(tmp_path, layout)
    one, other = ActivationStore.join(tmp_path), ActivationStore.join(tmp_path)
    activations, ids = rows_of(layout, 2)
    sync = LocalDirectory.sync

    def one_commits_first(location, names):
        monkeypatch.setattr(LocalDirectory, "sync", sync)
        one.write_part(2, activations, ids)
        sync(location, names)

    monkeypatch.setattr(LocalDirectory, "sync", one_commits_first)
    with pytest.raises(StorageError, match="not the same bytes"):
        other.write_part(2, {name: rows + 1 for name, rows in activations.items()}, ids)
    assert 2 in creator.missing_parts()


def test_only_a_store_that_was_created_can_be_joined(tmp_path):
    with pytest.raises(StorageError, match="no activation store"):
        ActivationStore.join(tmp_path)


def test_commit_records_are_the_same_from_every_process(tmp_path):
    with PROCESSES.Pool(1) as pool:
        pool.apply(_write_elsewhere, (tmp_path / "there",))
    write(tmp_path / "here", small_layout())
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def _write_elsewhere(root):
    torch.set_num_threads(1)
    write(root, small_layout())


def test_the_layout_survives_its_file(tmp_path):
    store = write(tmp_path, small_layout())
    content = json.loads((tmp_path / "manifest.json").read_text())
    content.pop("crc32c")
    assert StoreLayout(**content) == store.layout
