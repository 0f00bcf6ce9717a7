"""The score of an explanation, beside planted simulators and closed forms."""

import numpy as np
import pytest
import torch

from sae_core.interpretability import Score, score


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(fragments: int = 10, seed: int = 1) -> torch.Tensor:
    """Activations [fragments, 64] of which a tenth are not zero."""
    values = torch.rand(fragments, 64, generator=generator(seed)) * 5
    return values * (torch.rand(fragments, 64, generator=generator(seed + 1)) < 0.1)


def test_a_perfect_simulator_scores_one_and_a_shuffled_one_nothing():
    true = planted()
    steps = (true / true.max() * 10).round()  # the integers that simulators give
    assert score(true, steps, generator()).r > 0.99
    assert score(true, 3 * true + 2, generator()).r == pytest.approx(1)
    many = planted(200)
    shuffled = many.flatten()[torch.randperm(many.numel(), generator=generator())].view_as(many)
    assert abs(score(many, shuffled, generator()).r) < 0.1


def test_it_is_the_correlation_of_all_tokens_together():
    true, simulated = planted(), planted(seed=5) + planted()
    found = score(true, simulated, generator())
    x, y = true.flatten().double().numpy(), simulated.flatten().double().numpy()
    assert found.r == pytest.approx(np.corrcoef(x, y)[0, 1])
    slope, intercept = np.polyfit(y, x, 1)
    assert (found.slope, found.intercept) == (pytest.approx(slope), pytest.approx(intercept))
    assert found.tokens == 640
    own = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(true.numpy(), simulated.numpy(), strict=True)])
    assert found.r != pytest.approx(own)


def test_a_large_offset_costs_no_digits():
    true, simulated = planted(), planted(seed=5) + planted()
    plain = score(true.double(), simulated.double(), generator())
    moved = score(true.double() + 1e6, simulated.double() - 1e6, generator())
    assert moved[:3] == pytest.approx(plain[:3], abs=1e-6)


def test_missing_values_count_in_neither():
    true, simulated = planted(), planted(seed=5) + planted()
    simulated[:, ::3] = torch.nan
    simulated[4] = torch.nan
    there = ~simulated.isnan()
    found = score(true, simulated, generator())
    assert found.r == pytest.approx(np.corrcoef(true[there], simulated[there])[0, 1])
    assert found.tokens == there.sum()


def test_the_interval_is_that_of_resampled_fragments():
    true, simulated = planted(40), planted(40, seed=5) + planted(40)
    found = score(true, simulated, generator())
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(2000):
        which = rng.integers(40, size=40)
        resampled.append(np.corrcoef(true[which].flatten(), simulated[which].flatten())[0, 1])
    assert [found.low, found.high] == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.02)
    assert found.low < found.r < found.high


@pytest.mark.parametrize(
    ("true", "simulated", "reason"),
    [
        (torch.zeros(5, 8), torch.rand(5, 8), "the activation is the same"),
        (torch.rand(5, 8), torch.full((5, 8), 0.3), "the simulated activation is the same"),
        (torch.rand(5, 8), torch.full((5, 8), torch.nan), "no token has a simulated"),
        (torch.rand(0, 8), torch.rand(0, 8), "no token has a simulated"),
    ],
)
def test_what_is_undefined_is_none_and_says_why(true: torch.Tensor, simulated: torch.Tensor, reason: str):
    found = score(true, simulated, generator())
    assert found.r is found.low is found.slope is None
    assert reason in (found.reason or "")


def test_an_interval_that_most_resamples_do_not_have_is_none():
    true = torch.zeros(5, 8)
    true[2, 3] = 1
    found = score(true, true, generator())
    assert isinstance(found, Score)
    assert found.r == pytest.approx(1)
    assert found.low is found.high is None, "a third of the resamples leave the one active fragment out"
