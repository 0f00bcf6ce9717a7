"""Rankings, their shortest sufficient beginnings, and the sweep, where the answer is known."""

import itertools

import pytest
import torch
from torch import Tensor

from sae_core.feature_selection import doubling, fewest, ranks, sweep
from tests.sae_core.zoo import noise


def test_the_feature_that_lowers_most_is_first_and_what_does_not_change_is_last():
    effects = torch.tensor([[0.0, 2.0, -3.0, -1.0], [0.0, -2.0, 1.0, 0.0]])
    changed = torch.tensor([[False, True, True, True], [True, True, True, False]])
    assert ranks(effects, changed).tolist() == [[3, 2, 0, 1], [1, 0, 2, 3]]
    assert ranks(effects[0], changed[0]).tolist() == [3, 2, 0, 1]


def test_sizes_double_up_to_all():
    assert [doubling(most) for most in (0, 1, 2, 6, 8)] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 4, 6], [0, 1, 2, 4, 8],
    ]  # fmt: skip


@pytest.mark.parametrize("most", [1, 5, 64, 1000])
def test_the_smallest_sufficient_size_is_found_whatever_it_is(most: int):
    answers = torch.arange(most + 2)  # the last of them is never reached
    asked = []

    def measure(size_G: Tensor) -> Tensor:
        asked.append(size_G)
        return (answers - size_G).clamp(min=0).double()

    sizes = doubling(most)
    values = torch.stack([measure(torch.full_like(answers, size)) for size in sizes])
    asked.clear()
    found = fewest(measure, sizes, values, torch.zeros(most + 2))
    assert found.tolist() == [*range(most + 1), torch.inf]
    assert len(asked) <= most.bit_length()


def test_of_a_measure_that_rises_again_the_first_crossing_counts():
    values = torch.tensor([9.0, 7, 5, 1, 1, 6, 7, 0, 0])
    sizes = doubling(8)
    found = fewest(lambda size: values[size], sizes, values[sizes][:, None], torch.tensor([2.0]))
    assert found.tolist() == [3]


WEIGHTS = torch.full((40,), 1e-4)
PLANTED = [3, 17, 18, 31]
WEIGHTS[PLANTED] = torch.tensor([0.3, 0.5, 0.7, 0.9])


def missing(features: Tensor) -> float:
    """What the features that are not in the set would have lowered."""
    return (WEIGHTS.sum() - WEIGHTS[features].sum()).item()


def test_a_sweep_is_left_with_the_features_that_matter():
    left = sweep(missing, torch.arange(40), [1e-5, 1e-3, 1e-1, 0.4], torch.Generator().manual_seed(0))
    assert [sorted(accepted.features.tolist()) for accepted in left] == [
        list(range(40)), PLANTED, PLANTED, PLANTED[1:],
    ]  # fmt: skip
    for accepted in left:
        assert accepted.value == missing(accepted.features)


def test_a_sweep_compares_with_what_the_measure_is_by_then():
    """All go, one after the other, as each raises the measure by less than the threshold; all at once would not."""
    generator = torch.Generator().manual_seed(0)
    (accepted,) = sweep(lambda kept: 4.0 - len(kept), torch.arange(4), [1.5], generator)
    assert (len(accepted.features), accepted.value) == (0, 4)


def test_a_sweep_drops_what_stands_in_the_way():
    weights = noise(30)  # what is below zero raises the measure
    (accepted,) = sweep(
        lambda kept: -weights[kept].sum().item(), torch.arange(30), [1e-6], torch.Generator().manual_seed(0)
    )
    assert sorted(accepted.features.tolist()) == torch.arange(30)[weights > 0].tolist()


def test_the_order_of_a_sweep_is_that_of_its_generator():
    def either(kept: Tensor) -> float:
        return float(not torch.isin(torch.tensor([1, 2]), kept).any())  # one of the two is enough

    found = {
        tuple(sweep(either, torch.arange(3), [0.5], torch.Generator().manual_seed(seed))[0].features.tolist())
        for seed in itertools.chain(range(8), range(8))
    }
    assert found == {(1,), (2,)}
