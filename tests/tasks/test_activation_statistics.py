"""What is said of activations, on stores whose rows were made to have it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from storage.activations import ActivationStore
from storage.layout import StoreLayout
from storage.row_filter import RowFilter
from tasks.activation_statistics import NormHistogram, describe

HOOK = "blocks.0.hook_resid_post"
D = 16


def store_of(root: Path, rows, context_length: int = 32, n_sequences: int = 256) -> ActivationStore:
    """A store whose rows are `rows(ids [r, 2])`, [r, d]."""
    layout = StoreLayout(
        model="test",
        hook_points={HOOK: D},
        dtype="float32",
        segments=(n_sequences,),
        context_length=context_length,
        seed=0,
        tokens_digest="t",
        chunk_rows=512,
        chunks_per_part=2,
    )
    store = ActivationStore.create(root, layout)
    for part in store.missing_parts():
        ids = np.stack(np.meshgrid(layout.part_sequences(part), np.arange(context_length), indexing="ij"), -1)
        store.write_part(part, {HOOK: rows(ids.reshape(-1, 2))}, ids.reshape(-1, 2))
    store.seal()
    return ActivationStore.open(root)


def noise(ids: np.ndarray) -> torch.Tensor:
    return torch.randn(len(ids), D, generator=torch.Generator().manual_seed(int(ids[0, 0])))


def test_dimensions_that_stand_out_are_listed_by_their_share_of_the_energy(tmp_path: Path):
    def rows(ids: np.ndarray) -> torch.Tensor:
        acts = noise(ids)
        acts[:, 3] += 40
        acts[:, 7] *= 20
        acts[:, 9] += 3
        return acts

    found = describe(store_of(tmp_path, rows), HOOK, RowFilter())["outliers"]
    assert [entry["dimension"] for entry in found["dimensions"]] == [3, 7]
    energy = 40**2 + 20**2 + 3**2 + 15
    assert found["dimensions"][0]["mean"] == pytest.approx(40, rel=0.01)
    assert found["dimensions"][0]["sd"] == pytest.approx(1, rel=0.05)
    assert found["dimensions"][0]["energy_share"] == pytest.approx(1601 / energy, rel=0.02)
    assert found["energy_share"] == pytest.approx(2001 / energy, rel=0.02)


def test_sinks_are_found_by_position_and_do_not_blur_the_rest(tmp_path: Path):
    def rows(ids: np.ndarray) -> torch.Tensor:
        acts = noise(ids)
        sinks = (ids[:, 1] == 0) | ((ids[:, 1] == 5) & (ids[:, 0] % 4 != 0)) | ((ids == (8, 20)).all(1))
        acts[torch.from_numpy(sinks)] *= 1000
        return acts

    found = describe(store_of(tmp_path, rows), HOOK, RowFilter())
    assert found["sinks"] == {
        "positions": [
            {"position": 0, "sequences": 256, "of": 256},
            {"position": 5, "sequences": 192, "of": 256},
        ],
        "rows_elsewhere": 1,
    }
    kept = 256 * 32 - 256 - 193
    assert found["left_out"] == {"first_position": 256, "norm": 193, "kept": kept, "share": 1 - kept / 8192}
    assert found["outliers"]["dimensions"] == []
    assert found["norm"]["p99"] > 1000 > 10 > found["norm"]["median"]


def test_norms_are_those_of_all_rows(tmp_path: Path):
    store = store_of(tmp_path, noise)
    norms = torch.cat([acts.norm(dim=1) for acts, _ in store.iter_rows(HOOK)])
    found = describe(store, HOOK, RowFilter())["norm"]
    assert found["mean"] == pytest.approx(norms.mean().item())
    assert found["max"] == norms.max().item()
    for name, share in (("p1", 0.01), ("median", 0.5), ("p99", 0.99)):
        assert found[name] == pytest.approx(norms.quantile(share).item(), rel=2e-3)


def test_quantiles_are_exact_to_a_thousandth_over_all_magnitudes():
    histogram = NormHistogram()
    norms = torch.logspace(-30, 30, 10_001)
    for chunk in norms[torch.randperm(len(norms))].split(1000):
        histogram.update(chunk)
    for share in (0.01, 0.3, 0.5, 0.99, 1.0):
        expected = norms[max(1, round(share * len(norms))) - 1].item()
        assert histogram.quantile(share) == pytest.approx(expected, rel=1e-3)
    histogram.update(torch.zeros(30_000))
    assert histogram.quantile(0.5) < 1e-37


def test_shuffled_batches_are_as_varied_as_independent_rows_and_sorted_ones_are_not(tmp_path: Path):
    """Rows that depend on their document alone, in many documents, and in few that are each half a store."""
    effect = torch.randn(256, D, generator=torch.Generator().manual_seed(0))
    shuffled = describe(store_of(tmp_path / "a", lambda ids: effect[ids[:, 0]]), HOOK, RowFilter())["shuffle"]
    assert shuffled["batches"] >= 256
    assert shuffled["deff"] == pytest.approx(1, abs=0.15)
    assert shuffled["effective_rows"] == pytest.approx(shuffled["batch"] / shuffled["deff"])

    # One document after another: a buffer of 16 chunks mixes only a part of a store of many chunks.
    def drifting(ids: np.ndarray) -> torch.Tensor:
        part = float(ids[0, 0])
        return torch.full((len(ids), D), part) + 0.01 * noise(ids)

    store = store_of(tmp_path / "b", drifting, n_sequences=2048)
    assert describe(store, HOOK, RowFilter())["shuffle"]["deff"] > 2


def test_what_is_undefined_is_null_with_a_reason(tmp_path: Path):
    nothing = describe(store_of(tmp_path / "a", noise), HOOK, RowFilter(max_norm_ratio=1e-6))
    assert (nothing["outliers"], nothing["shuffle"]) == (None, None)
    assert set(nothing["undefined"]) == {"outliers", "shuffle"}
    few = describe(store_of(tmp_path / "b", noise, n_sequences=1), HOOK, RowFilter())
    assert "31 kept rows are too few" in few["undefined"]["shuffle"]
    same = describe(store_of(tmp_path / "c", lambda ids: torch.ones(len(ids), D)), HOOK, RowFilter())
    assert same["undefined"] == {"shuffle": "all kept rows are the same"}
