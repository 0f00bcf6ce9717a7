"""How alike two dictionaries are, where the answer is known."""

import pytest
import torch

from sae_core import learned_to_true, mmcs, mutual_nearest, nearest, one_to_one, true_to_learned
from sae_core import matching as matching_module


def directions(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_mmcs_averages_over_its_first_side():
    both, one = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0]])
    assert mmcs(one, both) == 1
    assert mmcs(both, one) == 0.5
    assert true_to_learned(both, one) == 0.5, "a true feature is missed"
    assert learned_to_true(both, one) == 0.5, "a learned feature is not true"
    assert learned_to_true(both, one, torch.tensor([True, False])) == 1, "unless it is dead"


def test_mmcs_is_signed_and_refuses_an_empty_side():
    assert mmcs(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])) == -1
    with pytest.raises(ValueError, match="0 with 2 directions is undefined"):
        mmcs(torch.zeros(0, 2), torch.eye(2))


def test_a_dictionary_in_another_order_and_of_other_lengths_matches_itself():
    a_nd, order_n = directions(40, 8), torch.randperm(40, generator=torch.Generator().manual_seed(1))
    found = one_to_one(a_nd, 3 * a_nd[order_n])
    assert torch.equal(order_n[found.b_p], found.a_p)
    assert found.mean == pytest.approx(1, abs=1e-6)
    assert found.fraction_above(0.9) == 1


@pytest.mark.parametrize("swapped", [False, True])
def test_every_feature_of_the_smaller_dictionary_has_a_partner_of_its_own(swapped: bool):
    small_nd, large_md = directions(12, 8), torch.cat([directions(20, 8, seed=1), directions(12, 8)])
    found = one_to_one(large_md, small_nd) if swapped else one_to_one(small_nd, large_md)
    small_p, large_p = (found.b_p, found.a_p) if swapped else (found.a_p, found.b_p)
    assert sorted(small_p.tolist()) == list(range(12))
    assert torch.equal(large_p, small_p + 20)


def test_two_features_may_not_share_a_partner_as_they_may_in_mmcs():
    twice = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert mmcs(twice, torch.eye(2)) == 1
    assert one_to_one(twice, torch.eye(2)).mean == 0.5
    assert one_to_one(twice, torch.eye(2)).fraction_above() == 0.5


def test_matching_nothing_or_too_much_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="no pairs: 2 with 0 directions"):
        one_to_one(torch.eye(2), torch.zeros(0, 2))
    monkeypatch.setattr(matching_module, "MOST_COSINES", 8)
    with pytest.raises(ValueError, match="3 with 3 directions are too many"):
        one_to_one(torch.eye(3), torch.eye(3))


def test_mutual_nearest_finds_the_pairs_that_nobody_contests():
    a_nd, order_n = directions(40, 8), torch.randperm(40, generator=torch.Generator().manual_seed(1))
    b_nd = a_nd[order_n]
    found = mutual_nearest(nearest(a_nd, b_nd), nearest(b_nd, a_nd))
    assert torch.equal(order_n[found.b_p], found.a_p)
    twice = torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    found = mutual_nearest(nearest(twice, torch.eye(2)), nearest(torch.eye(2), twice))
    assert [column.tolist() for column in found] == [[0], [0], [1.0]]
