"""Windows of the text, and the fragments, bins and partners of features, beside what is counted by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_core import Coactivation
from storage.latents import Entries, Latents, LatentWriter
from storage.seeds import seeded_generator
from tasks import feature_tables
from tasks.feature_tables import SCORE, SHOWN, TRAIN, coactivation, fragments, histogram, peaks, ranks
from tasks.fragment_windows import Windows, cut

LENGTH = 4


def entries(values: np.ndarray) -> Entries:
    """Of codes [rows, positions, features]."""
    latent, row, position = np.moveaxis(values, 2, 0).nonzero()
    return Entries(latent, row, position, values[row, position, latent].astype(np.float16))


def all_windows(rows: int, positions: int) -> Windows:
    row, cell = np.divmod(np.arange(rows * (positions // LENGTH)), positions // LENGTH)
    return Windows(row, cell * LENGTH, LENGTH)


def codes(seed: int, rows: int = 40, features: int = 5, share: float = 0.2, signed: bool = True) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 10, features)).astype(np.float16)
    values = values if signed else np.abs(values)
    return np.where(rng.random(values.shape) < share, values, 0)


def test_windows_do_not_overlap_and_there_is_one_inside_each_document():
    spelling = {0: b"a", 1: "é".encode(), 2: b"\xc3", 3: b"\xa9"}
    tokens = np.array([[0, 0, 0, 0, 2, 3, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 2, 3, 0], [0] * 10])
    documents = np.array([[7] * 10, [7] * 10, [8] * 8 + [9] * 2])
    windows = cut(tokens, documents, spelling, LENGTH, seed=0)
    inside_seven = [(row, start) for row, start in zip(windows.row, windows.start, strict=True) if row < 2]
    assert len(inside_seven) <= 1, "one of the four, which may be the one that ends within a character"
    assert [int(row) for row in windows.row].count(2) == 1
    many = {tuple(cut(tokens, documents, spelling, LENGTH, seed).row.tolist()) for seed in range(20)}
    assert len(many) > 1, "which one is a matter of the seed"
    joined = cut(tokens[2:], np.arange(10)[None], spelling, LENGTH, seed=0)
    assert list(zip(joined.row.tolist(), joined.start.tolist(), strict=True)) == [(0, 0), (0, 4)]
    assert joined.number((1, 10)).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, -1, -1]]
    assert len(cut(tokens, documents, spelling, 11, seed=0).row) == 0


def test_windows_that_cut_a_character_are_dropped():
    tokens = np.array([[0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 1, 2]])
    windows = cut(tokens, np.arange(12)[None], {0: b"a", 1: b"\xc3", 2: b"\xa9"}, LENGTH, seed=0)
    assert windows.start.tolist() == [8]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), share=st.floats(0.01, 1.0), signed=st.booleans())
def test_what_is_explained_is_never_among_what_is_scored(seed: int, share: float, signed: bool):
    values = codes(seed, share=share, signed=signed)
    windows = all_windows(40, 10)
    found = peaks(entries(values), windows.number((40, 10)))
    table = fragments(found, windows, seeded_generator("test", seed))
    largest = values[:, :8].reshape(40, 2, LENGTH, 5).max(2).reshape(80, 5).astype(np.float32)
    for feature in range(5):
        mine = {name: column[table["feature"] == feature] for name, column in table.items()}
        of = {
            kind: list(zip(mine["row"][mine["kind"] == kind], mine["start"][mine["kind"] == kind], strict=True))
            for kind in ("top", "random", "interval")
        }
        at = largest[:, feature]
        assert np.array_equal(mine["maximum"], at[mine["row"] * 2 + mine["start"] // LENGTH])
        assert np.array_equal(mine["maximum"][mine["kind"] == "top"], np.sort(at[at > 0])[::-1][:SHOWN])
        train = {of["top"][rank] for rank in TRAIN if rank < len(of["top"])}
        score = {of["top"][rank] for rank in SCORE if rank < len(of["top"])}
        assert not train & (score | set(of["random"]) | set(of["interval"]))
        assert not score & set(of["random"])
        assert len(of["random"]) == min(SHOWN, (at > 0).sum() - len(train) - len(score)) == len(set(of["random"]))
        ascending = mine["maximum"][mine["kind"] == "interval"].reshape(-1)
        tenths = mine["rank"][mine["kind"] == "interval"] // feature_tables.PER_TENTH
        assert all(
            ascending[tenths < tenth].max() <= ascending[tenths == tenth].min() for tenth in set(tenths[1:]) - {0}
        )


def test_ranks_are_within_groups_and_by_several_keys():
    assert ranks(np.array([3, 1, 3, 1, 3]), np.array([2, 5, 1, 4, 1]), np.array([0, 0, 2, 0, 1])).tolist() == [
        2,
        1,
        1,
        0,
        0,
    ]


def test_every_activation_is_in_one_bin():
    values = codes(1)
    table = histogram(entries(values))
    for feature in range(5):
        nonzero = values[..., feature][values[..., feature] != 0].astype(np.float64)
        expected, edges = np.histogram(nonzero, 10)
        mine = table["feature"] == feature
        assert table["activations"][mine].sum() == expected.sum()
        assert np.abs(table["activations"][mine] - expected).max() <= 1, "rounding at an edge"
        np.testing.assert_allclose(table["low"][mine], edges[:-1])
        np.testing.assert_allclose(table["high"][mine], edges[1:])
    once = np.zeros((2, 10, 3))
    once[1, 2, 2] = -0.5
    assert histogram(entries(once))["activations"].tolist() == [1, *[0] * 9]
    assert all(len(column) == 0 for column in histogram(entries(once * 0)).values())


@pytest.mark.parametrize("dense", [0, 1e9])
def test_partners_are_those_of_a_dense_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense: float):
    monkeypatch.setattr(feature_tables, "DENSE", dense or 1e-9)
    values = codes(2, features=14)
    kept = np.ones(values.shape[:2], dtype=bool)
    kept[:, 0], values[:, 0] = False, 0
    writer = LatentWriter(tmp_path / "scratch", np.zeros(values.shape[:2], np.int64), 14)
    found = entries(values)
    writer.add(found.row, found.position, found.latent, found.activation)
    writer.close(tmp_path / "layer", {})
    table = coactivation(Latents.open(tmp_path / "layer"), kept, seed=0)
    pairs = Coactivation(14)
    pairs.update(torch.from_numpy(values[kept].astype(np.float32)))
    at = (table["feature"], table["other"])
    assert np.array_equal(table["rows"], pairs.counts_nn[at])
    np.testing.assert_allclose(table["jaccard"], pairs.jaccard()[at])
    np.testing.assert_allclose(table["phi"], pairs.phi()[at])
    assert np.bincount(table["feature"]).tolist() == [10] * 14
