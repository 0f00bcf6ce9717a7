"""The pass over the held-out text, on a tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.baselines import fit_pca
from sae_core.dictionary import Dictionary
from storage.latents import Latents
from storage.tables import read_table
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.corpus import token_rows
from tasks.features import read_features
from tasks.rows import open_store
from tasks.specs import RowFilter
from tests.tasks.conftest import RESIDUAL
from tests.tasks.evaluate.subjects import reader, saved

LENGTH = 8


def features_of(harvested: dict[str, Any], dictionary: Dictionary, **changes: Any) -> Path:
    inputs = {"hook_point": RESIDUAL, "rows": RowFilter(), "fragment_length": LENGTH, "seed": 0, "compute": Compute()}
    return artifacts().path(read_features.build(dictionary=saved(dictionary), **harvested, **(inputs | changes)))


def dense_codes(harvested: dict[str, Any], dictionary: Dictionary) -> np.ndarray:
    """[rows, positions, features], NaN where rows are left out."""
    store = open_store(harvested["activations"], "held_out")
    codes = np.full((*token_rows(harvested["tokens"], "held_out").shape, dictionary.n_features), np.nan, np.float32)
    for x, ids in store.iter_rows(RESIDUAL, RowFilter()):
        codes[ids[:, 0], ids[:, 1]] = dictionary.encode(x).detach().numpy()
    return codes


@pytest.mark.parametrize("signed", [False, True])
def test_what_is_kept_is_what_the_dictionary_finds(harvested: dict[str, Any], signed: bool):
    x = torch.cat(
        [rows for rows, _ in open_store(harvested["activations"], "held_out").iter_rows(RESIDUAL, RowFilter())]
    )
    dictionary = fit_pca(iter([x]), k=4) if signed else reader(torch.eye(32), bias=-0.05)
    codes = dense_codes(harvested, dictionary)
    place = features_of(harvested, dictionary)
    latents = Latents.open(place / "latents" / RESIDUAL)
    rebuilt = np.zeros_like(codes)
    for part in latents.parts():
        rebuilt[part.row, part.position, part.latent] = part.activation
    assert np.isnan(codes[:, 0]).all()
    np.testing.assert_allclose(rebuilt, np.nan_to_num(codes), rtol=1e-3, atol=1.1e-5)
    assert not (place / "scratch").exists()

    table = read_table(place / "features.parquet").to_pydict()
    kept = codes[~np.isnan(codes).any(-1)]
    np.testing.assert_allclose(table["density"], (kept != 0).mean(0))
    np.testing.assert_allclose(table["max"], np.abs(kept).max(0), rtol=1e-6)
    windows = read_table(place / "windows.parquet").to_pydict()
    inside = np.stack([codes[row, start : start + LENGTH] for row, start in zip(*windows.values(), strict=True)])
    assert table["fragments"] == (np.nan_to_num(inside).max(1) > 1e-5).sum(0).tolist()
    for row in read_table(place / "fragments.parquet").to_pylist()[::17]:
        there = codes[row["row"], row["start"] : row["start"] + LENGTH, row["feature"]]
        assert row["maximum"] == pytest.approx(np.nanmax(there), rel=1e-3)


def test_a_dictionary_that_never_fires_has_tables_without_fragments(harvested: dict[str, Any]):
    place = features_of(harvested, reader(torch.eye(32)[:3], bias=-1e6))
    features = read_table(place / "features.parquet").to_pydict()
    assert features["fragments"] == [0, 0, 0]
    assert features["skew"] == [None] * 3
    assert set(features["undefined"]) == {"never active"}
    for name in ("fragments", "histogram", "coactivation"):
        assert read_table(place / f"{name}.parquet").num_rows == 0


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_fragments(harvested: dict[str, Any]):
    dictionary = reader(torch.eye(32)[:5], bias=0)
    tables = {}
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        place = features_of(harvested, dictionary, seed=seed)
        tables[name] = (place / "fragments.parquet").read_bytes()
        artifacts().remove(next(ref for ref, _ in artifacts().list("features")))
    assert tables["first"] == tables["second"] != tables["other"]
