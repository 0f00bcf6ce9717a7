"""Features aligned where the answer is known."""

import pytest
import torch

from sae_core import matching
from tasks.comparison.alignment import BINS, MUTUAL, align, chance, counts, histogram, rows, states


def directions(n: int, d: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_a_dictionary_in_another_order_is_aligned_exactly_whichever_way_pairs_are_found(
    monkeypatch: pytest.MonkeyPatch,
):
    a_nd, order_n = directions(50), torch.randperm(50, generator=torch.Generator().manual_seed(1))
    for most in (matching.MOST_COSINES, 8):
        monkeypatch.setattr(matching, "MOST_COSINES", most)
        found = align(a_nd, a_nd[order_n])
        assert (found.how == MUTUAL) == (most == 8)
        assert found.summary["mmcs_a_in_b"] == found.summary["mmcs_b_in_a"] == pytest.approx(1, abs=1e-6)
        assert found.summary["pairs"] == 50
        table = rows(1, found, [], [])
        assert {row["state"] for row in table} == {"kept"}
        assert all(row["partner"] == row["nearest"] for row in table)
        assert [int(order_n[row["partner"]]) for row in table[:50]] == list(range(50))


def test_planted_features_are_kept_changed_lost_and_gained():
    own, shared, new = directions(4, seed=1), directions(3, seed=2), directions(5, seed=3)
    turned = torch.nn.functional.normalize(own[:1] + 0.9 * directions(1, seed=9), dim=1)  # a cosine of about 0.74
    a_nd, b_md = torch.cat([own, shared]), torch.cat([shared, turned, new])
    table = rows(1, align(a_nd, b_md), [0.1] * 7, [0.1] * 8 + [0.0])
    of_a = [row["state"] for row in table if row["run"] == "A"]
    of_b = [row["state"] for row in table if row["run"] == "B"]
    assert of_a == ["changed", "lost", "lost", "lost", "kept", "kept", "kept"]
    assert of_b == ["kept", "kept", "kept", "changed", *["gained"] * 4, "never fires"]
    assert counts(of_b) == {"kept": 3, "changed": 1, "gained": 4, "never fires": 1}
    partners = [row["partner"] for row in table if row["run"] == "B"]
    assert sum(partner is not None for partner in partners) == 7, "as many as the smaller one has"


def test_thresholds_are_edges_of_the_histogram():
    assert states([0.9, 0.8999, 0.5, 0.4999], [], "lost") == ["kept", "changed", "changed", "lost"]
    bins = histogram([0.9, 0.8999, 0.5, 0.4999, 1.0, -1.0])
    assert sum(bins) == 6
    assert (bins[38], bins[37], bins[30], bins[29], bins[39], bins[0]) == (1, 1, 1, 1, 1, 1)
    assert len(bins) == BINS


def test_chance_is_what_random_directions_reach():
    a_nd, b_md = directions(400, 128, seed=4), directions(1000, 128, seed=5)
    assert chance(1000, 128) == pytest.approx(align(a_nd, b_md).summary["mmcs_a_in_b"], rel=0.03)
