"""What is exactly true of probes of planted features."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sae_core.interventions import erase
from sae_core.probes import ablated, attribution, fit_probe, mean_difference, spurious_removed, targeted

ROWS, WIDTH = 400, 12


@pytest.fixture
def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def y() -> Tensor:
    return torch.arange(ROWS) < ROWS // 2


@pytest.fixture
def x(y: Tensor, noise: torch.Generator) -> Tensor:
    """The first dimension tells the class; in all others, each row of one class is that of a row of the other."""
    rows = torch.randn(ROWS // 2, WIDTH, generator=noise).repeat(2, 1)
    rows[:, 0] = 3 * (2 * y - 1)
    return rows


def best(f: Tensor, y: Tensor) -> Tensor:
    return f[:, mean_difference(f, y).abs().argsort(descending=True)[:1]]


def test_one_feature_that_carries_the_class_is_enough_and_no_random_direction_is(
    x: Tensor, y: Tensor, noise: torch.Generator
):
    random = F.normalize(torch.randn(4 * WIDTH, WIDTH, generator=noise), dim=1)
    planted, other = best(x, y), best(F.relu(x @ random.T), y)
    assert fit_probe(planted, y).accuracy(planted, y) == 1
    assert 0.5 < fit_probe(other, y).accuracy(other, y) < 1


def test_a_probe_turns_with_the_basis(x: Tensor, y: Tensor, noise: torch.Generator):
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=noise)).Q
    probe, turned = fit_probe(x, y), fit_probe(7 * x @ rotation, y)
    torch.testing.assert_close(7 * turned.weight_d, probe.weight_d @ rotation, rtol=0, atol=1e-3)
    assert turned.bias == pytest.approx(probe.bias, abs=1e-3)


def test_without_the_planted_direction_a_probe_is_at_chance(x: Tensor, y: Tensor):
    erased = erase(x, torch.eye(WIDTH)[:1], x.mean(0))
    assert fit_probe(x, y).accuracy(x, y) == 1
    for probe in (fit_probe(x, y), fit_probe(erased, y)):
        assert probe.accuracy(erased, y) == 0.5


def test_a_probe_of_what_never_changes_is_at_chance(y: Tensor):
    nothing = torch.zeros(ROWS, 2)
    assert fit_probe(nothing, y).accuracy(nothing, y) == 0.5


def test_the_feature_that_a_probe_reads_has_all_the_attribution(x: Tensor, y: Tensor):
    x[:, 1:] = 0
    shares = attribution(fit_probe(x, y), x, y, torch.eye(WIDTH))
    assert shares.argmax() == 0
    assert shares[1:].abs().max() < 1e-6 * shares[0]


def test_ablating_all_features_of_a_complete_basis_leaves_nothing_and_none_leaves_all(
    x: Tensor, noise: torch.Generator
):
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=noise)).Q
    assert torch.equal(ablated(x, x @ basis.T, torch.tensor([], dtype=torch.long), basis), x)
    everything = ablated(x, x @ basis.T, torch.arange(WIDTH), basis)
    torch.testing.assert_close(everything, torch.zeros_like(x), rtol=0, atol=1e-5)


def test_ablating_exactly_the_spurious_feature_removes_all_of_the_correlation():
    wanted, spurious = torch.arange(ROWS) % 2 == 0, torch.arange(ROWS) // 2 % 2 == 0
    x = torch.stack([2.0 * wanted - 1, 10 * (2.0 * spurious - 1)], 1)
    together = wanted == spurious
    misled = fit_probe(x[together], wanted[together])
    original, clean = misled.accuracy(x, wanted), fit_probe(x, wanted).accuracy(x, wanted)
    assert clean == 1 > 0.7 > original
    removed = misled.accuracy(ablated(x, x, torch.tensor([1]), torch.eye(2)), wanted)
    assert spurious_removed(original, clean, removed) == 1
    assert spurious_removed(original, clean, original) == 0


def test_targeted_is_what_the_own_probe_loses_beyond_the_others():
    lost = torch.tensor([[0.4, 0.1, 0.0], [0.1, 0.5, 0.3], [0.2, 0.2, 0.2]])
    torch.testing.assert_close(targeted(lost), torch.tensor([0.35, 0.3, 0.0]))
