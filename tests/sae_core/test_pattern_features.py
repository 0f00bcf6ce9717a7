"""What is counted of features is what the definition says, and the best of them is found."""

import math

import pytest
import torch
from torch import Tensor

from sae_core import pattern_features
from sae_core.architectures import ReLU
from sae_core.baselines import fit_pca
from sae_core.dictionary import Dictionary
from sae_core.pattern_features import HALF, SHARES, SIGNS, activations, count, count_one, f1_above, find_features

ROWS, WIDTH = 400, 6


@pytest.fixture
def x(noise: torch.Generator) -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=noise)


@pytest.fixture
def match(noise: torch.Generator) -> Tensor:
    return torch.rand(ROWS, generator=noise) < 0.1


@pytest.fixture
def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def reader(directions: Tensor, bias: float = 0.0) -> Dictionary:
    """A dictionary whose features are relu(direction · x + bias)."""
    dictionary = ReLU(directions.shape[1], len(directions), l1_coefficient=0)
    with torch.no_grad():
        dictionary.W_enc_nd.copy_(directions)
        dictionary.W_dec_nd.copy_(directions)
        dictionary.b_enc_n.fill_(bias)
        dictionary.b_dec_d.zero_()
    return dictionary


def test_counts_are_those_of_the_definition(x: Tensor, match: Tensor):
    counts = count(lambda: [(x[:150], match[:150]), (x[150:], match[150:])])
    assert (counts.rows, counts.matching) == (ROWS, match.sum())
    for at, sign in enumerate(SIGNS):
        f = (sign * x).relu()
        assert torch.equal(counts.peak[at], f.amax(0))
        for level, share in enumerate(SHARES):
            fires = (f > 0) & (f >= share * f.amax(0))
            assert torch.equal(counts.fires[level, at], fires.sum(0))
            assert torch.equal(counts.hits[level, at], fires[match].sum(0))


def test_measures_are_those_of_the_definition():
    f = torch.tensor([0.0, 0.0, 1.0, 4.0, 6.0, 8.0])
    match = torch.tensor([False, True, False, True, False, True])
    counts = count_one(f, match)
    assert counts.precision[0] == 2 / 4
    assert counts.recall[0] == 2 / 3
    assert counts.f1[0] == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert counts.fires[HALF] == 3, "half of the largest counts too"
    assert counts.monosemanticity == 2 / 3
    assert counts.density == 4 / 6


def test_a_threshold_of_some_rows_is_the_same_activation_on_others(x: Tensor, match: Tensor):
    x = x + 3 * match[:, None]
    (found,) = find_features(reader(torch.eye(WIDTH)), x, match)
    f = activations(reader(torch.eye(WIDTH)), x, found.feature)
    assert f1_above(found.threshold, f, match) == found.counts.f1[found.level] > found.counts.f1[0]
    higher = torch.cat([f, torch.tensor([100.0])])
    hits, fires = int((f[match] >= found.threshold).sum()), int((f >= found.threshold).sum())
    expected = 2 * hits / (fires + 1 + int(match.sum()))
    assert f1_above(found.threshold, higher, torch.cat([match, torch.tensor([False])])) == expected


def test_a_feature_that_fires_on_exactly_the_matching_rows_is_found(x: Tensor, match: Tensor):
    x[:, 3] = match.float()
    (found,) = find_features(reader(torch.eye(WIDTH)), x, match)
    assert (found.feature, found.sign) == (3, 1)
    assert found.counts.f1[found.level] == 1


def test_a_component_of_negative_codes_is_found_with_its_sign(x: Tensor, match: Tensor):
    x = x + 30 * match[:, None] * torch.eye(WIDTH)[2]
    basis = fit_pca(iter([x]), centred=False)
    basis.directions_nd[0] *= -basis.directions_nd[0, 2].sign()  # PCA leaves the sign open
    (found,) = find_features(basis, x, match)
    assert (found.feature, found.sign) == (0, -1)
    assert found.counts.f1[found.level] == 1
    assert found.counts.f1[0] < 0.5, "it takes a threshold, as a component fires everywhere"
    f = activations(basis, x, 0, -1)
    assert f.min() == 0
    assert torch.equal(count_one(f, match).fires, found.counts.fires)


def test_the_best_features_come_first(x: Tensor, match: Tensor):
    several = find_features(reader(torch.eye(WIDTH)), x, match, how_many=4)
    scores = [float(found.counts.f1.max()) for found in several]
    assert scores == sorted(scores, reverse=True)
    assert all(found.counts.f1[found.level] == found.counts.f1.max() for found in several)


def test_codes_that_are_not_negative_have_no_second_sign(x: Tensor, match: Tensor):
    counts = count(lambda: [(x.relu(), match)])
    assert counts.fires[:, 1].max() == 0
    assert counts.peak[1].max() == 0


def test_how_many_rows_are_encoded_at_once_changes_nothing(x: Tensor, match: Tensor, monkeypatch: pytest.MonkeyPatch):
    (expected,) = find_features(reader(torch.eye(WIDTH)), x, match)
    monkeypatch.setattr(pattern_features, "CODES_PER_BATCH", 7 * WIDTH)
    (found,) = find_features(reader(torch.eye(WIDTH)), x, match)
    assert found[:3] == expected[:3]
    assert torch.equal(found.counts.hits, expected.counts.hits)


def test_where_nothing_matches_or_nothing_fires_nothing_is_found(x: Tensor, match: Tensor):
    assert find_features(reader(torch.eye(WIDTH)), x, torch.zeros_like(match)) == []
    assert find_features(reader(torch.eye(WIDTH), bias=-1e6), x, match) == []


def test_what_is_undefined_is_not_a_number(match: Tensor):
    counts = count_one(torch.zeros(ROWS), match)
    assert math.isnan(counts.precision[0])
    assert math.isnan(counts.monosemanticity)
    assert counts.recall[0] == 0
