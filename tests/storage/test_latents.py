"""Sparse activations: what goes in comes out, sorted, in files that delphi's readers understand."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from storage import latents
from storage.errors import StorageError
from storage.latents import Latents, LatentWriter

LATENTS = 21
ROWS, POSITIONS = 7, 16


def codes(density: float = 0.3, seed: int = 0) -> np.ndarray:
    """[rows, positions, latents], as float16 holds them."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(ROWS, POSITIONS, LATENTS)).astype(np.float16)
    values[rng.random(values.shape) > density] = 0
    values[..., 5] = 0
    return values


def written(values: np.ndarray, place: Path, batches: int = 5) -> Latents:
    tokens = np.arange(ROWS * POSITIONS).reshape(ROWS, POSITIONS)
    writer = LatentWriter(place / "scratch", tokens, LATENTS)
    order = np.random.default_rng(1).permutation(ROWS * POSITIONS)
    for places in np.array_split(order, batches):
        row, position = np.divmod(places, POSITIONS)
        at, latent = values[row, position].nonzero()
        writer.add(row[at], position[at], latent, values[row[at], position[at], latent].astype(np.float32))
    writer.close(place / "layer", {"hookpoint": "layer"})
    return Latents.open(place / "layer")


@pytest.mark.parametrize("at_once", [1, 60, 400, 1 << 22])
@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
def test_what_goes_in_comes_out_sorted_however_little_is_sorted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, density: float
):
    monkeypatch.setattr(latents, "ENTRIES_AT_ONCE", at_once)
    values = codes(density)
    read = written(values, tmp_path)
    for latent in range(LATENTS):
        entries = read.of(latent)
        row, position = values[..., latent].nonzero()
        assert (entries.latent == latent).all()
        assert np.array_equal(entries.row, row)
        assert np.array_equal(entries.position, position)
        assert np.array_equal(entries.activation, values[row, position, latent])
    parts = [np.concatenate(columns) for columns in zip(*read.parts(), strict=True)]
    latent, row, position = np.moveaxis(values, 2, 0).nonzero()
    assert np.array_equal(parts[0], latent)
    assert np.array_equal(parts[3], values[row, position, latent])


def test_the_files_are_laid_out_as_delphi_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(latents, "ENTRIES_AT_ONCE", 400)
    values = codes()
    written(values, tmp_path)
    seen, rebuilt = [], np.zeros_like(values)
    for file in (tmp_path / "layer").glob("*.safetensors"):
        first, last = map(int, file.stem.split("_"))
        seen += range(first, last + 1)
        content = load_file(file)
        assert content["locations"].dtype == np.uint16
        assert content["activations"].dtype == np.float16
        assert content["tokens"].shape == (ROWS, POSITIONS)
        row, position, latent = content["locations"].T
        rebuilt[row, position, latent + first] = content["activations"]
    assert sorted(seen) == list(range(LATENTS))
    assert np.array_equal(rebuilt, values)
    config = json.loads((tmp_path / "layer/config.json").read_text())
    assert (config["hookpoint"], config["ctx_len"], config["n_tokens"]) == ("layer", POSITIONS, ROWS * POSITIONS)


def test_places_that_need_more_than_sixteen_bits_get_them(tmp_path: Path):
    tokens = np.zeros((70_000, 2), np.int64)
    writer = LatentWriter(tmp_path / "scratch", tokens, 3)
    writer.add(np.array([69_999]), np.array([1]), np.array([2]), np.array([0.5]))
    writer.close(tmp_path / "layer", {})
    assert [int(column[0]) for column in Latents.open(tmp_path / "layer").of(2)[:3]] == [2, 69_999, 1]
    assert load_file(tmp_path / "layer/0_2.safetensors")["locations"].dtype == np.uint32


def test_what_is_next_to_nothing_is_left_out_and_what_does_not_fit_is_refused(tmp_path: Path):
    writer = LatentWriter(tmp_path / "scratch", np.zeros((1, 4), np.int64), 1)
    places = np.arange(3)
    writer.add(0 * places, places, 0 * places, np.array([1e-5, -1.5e-5, 2.0]))
    with pytest.raises(StorageError, match="70000 does not fit float16"):
        writer.add(np.array([0]), np.array([3]), np.array([0]), np.array([7e4]))
    writer.close(tmp_path / "layer", {})
    assert Latents.open(tmp_path / "layer").of(0).position.tolist() == [1, 2]
