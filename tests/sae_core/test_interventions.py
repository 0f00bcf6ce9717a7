"""Changes to features, of every method."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_core import Dictionary, fit_ica, fit_identity, fit_nmf, fit_pca, fit_random
from sae_core.interventions import ablate, erase, keep_only, patch, steer, writes
from tests.sae_core.zoo import ZOO, D, N, noise, with_random_biases

X = noise(200, D) @ noise(D, D, seed=1) + 2

BASELINES: dict[str, Callable[[], Dictionary]] = {
    "pca": lambda: fit_pca(iter([X])),
    "pca_rectified": lambda: fit_pca(iter([X]), rectify=True),
    "ica": lambda: fit_ica(iter([X]), seed=0),
    "nmf": lambda: fit_nmf(lambda: iter([X]), 5, seed=0),
    "random": lambda: fit_random(lambda: iter([X]), N, seed=0),
    "identity": lambda: fit_identity(iter([X])),
}


@pytest.fixture(params=[*ZOO, *BASELINES])
def dictionary(request: pytest.FixtureRequest) -> Dictionary:
    name = request.param
    return with_random_biases(ZOO[name]()) if name in ZOO else BASELINES[name]().double()


def codes(dictionary: Dictionary) -> Tensor:
    return dictionary.encode(X[:, : dictionary.d_in]).detach()


def test_what_features_write_adds_up_to_what_is_decoded(dictionary: Dictionary, monkeypatch: pytest.MonkeyPatch):
    f = codes(dictionary)
    one_by_one = writes(dictionary)
    decoded = dictionary.decode(f) - dictionary.decode(torch.zeros_like(f))
    torch.testing.assert_close(f @ one_by_one, decoded, rtol=1e-9, atol=1e-9)
    monkeypatch.setattr("sae_core.interventions.FEATURES_PER_CALL", 3)
    assert torch.equal(writes(dictionary), one_by_one)


def test_patching_no_feature_leaves_every_bit():
    change = keep_only(noise(200, N), torch.tensor([], dtype=torch.long))
    assert torch.equal(patch(X, change, noise(N, D)), X)


def test_patching_every_feature_of_a_complete_basis_gives_the_other_activations():
    pca, other = fit_pca(iter([X])).double(), X.flip(0)
    patched = patch(X, pca.encode(other) - pca.encode(X), writes(pca))
    torch.testing.assert_close(patched, other, rtol=0, atol=1e-5)  # the components were fitted in float32


def test_ablating_a_feature_that_is_not_active_changes_nothing():
    dictionary = with_random_biases(ZOO["topk"]())
    f, written = codes(dictionary), writes(dictionary)
    for feature in range(N):
        changed = (ablate(X, f, feature, written) != X).any(1)
        assert not (changed & (f[:, feature] == 0)).any()
        assert torch.equal(ablate(X, f, feature, written), patch(X, keep_only(-f, torch.tensor([feature])), written))


def test_steering_moves_by_the_strength_in_the_direction():
    directions = with_random_biases(ZOO["relu"]()).directions.detach()
    moved = steer(X, 3, 2.5, directions) - X
    torch.testing.assert_close(moved, 2.5 * directions[3].expand_as(X))


def test_erasing_directions_leaves_the_centre_there_and_the_rest_as_it_was():
    directions, center = noise(2, D, seed=5), X.mean(0)
    erased = erase(X, directions, center)
    torch.testing.assert_close((erased - center) @ directions.T, torch.zeros(200, 2, dtype=torch.float64))
    others = torch.linalg.qr(torch.cat([directions, noise(D - 2, D, seed=6)]).T).Q[:, 2:]
    torch.testing.assert_close(erased @ others, X @ others)
    torch.testing.assert_close(erase(erased, 3 * directions, center), erased)
