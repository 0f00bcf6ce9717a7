"""PCA, random and identity against what they are known to be."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as SklearnPCA
from torch import Tensor

from sae_core import ReconstructionMetrics, fit_identity, fit_pca, fit_random
from sae_core.dictionary import Dictionary


def correlated_rows(count: int = 600, d: int = 10, offset: float = 5.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing_dd = torch.randn(d, d, generator=generator) * torch.linspace(3, 0.1, d)[:, None]
    return torch.randn(count, d, generator=generator) @ mixing_dd + offset


def in_batches(x_Bd: Tensor, size: int = 64) -> Iterator[Tensor]:
    return iter(x_Bd.split(size))


def fvu(dictionary: Dictionary, x_Bd: Tensor) -> float:
    metrics = ReconstructionMetrics(dictionary.n_features)
    metrics.update(x_Bd, dictionary(x_Bd), dictionary.encode(x_Bd))
    value = metrics.result().values["fvu"]
    assert value is not None
    return value


def test_pca_finds_the_components_of_scikit_learn_in_their_order():
    x_Bd = correlated_rows()
    pca = fit_pca(in_batches(x_Bd))
    theirs = SklearnPCA().fit(x_Bd.double().numpy())
    cosines = np.abs((pca.directions.double().numpy() * theirs.components_).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    np.testing.assert_allclose(pca.encode(x_Bd).var(0), theirs.explained_variance_, rtol=1e-4)


def test_pca_with_all_components_rebuilds_exactly_and_its_codes_are_signed():
    x_Bd = correlated_rows()
    pca = fit_pca(in_batches(x_Bd))
    torch.testing.assert_close(pca(x_Bd), x_Bd, rtol=0, atol=1e-4)
    assert (pca.encode(x_Bd) < 0).any()


def test_pca_of_a_batch_is_pca_of_its_parts_even_far_from_the_origin():
    x_Bd = correlated_rows(offset=0).double() + 1e4
    whole, parts = fit_pca(iter([x_Bd])), fit_pca(in_batches(x_Bd, 7))
    torch.testing.assert_close(whole.directions, parts.directions, rtol=0, atol=1e-5)


def test_pca_with_k_keeps_the_k_largest_coefficients_of_each_row_and_no_other_choice_is_better():
    x_Bd = correlated_rows()
    pca, top3 = fit_pca(in_batches(x_Bd)), fit_pca(in_batches(x_Bd), k=3)
    c_Bn, kept_Bn = pca.encode(x_Bd), top3.encode(x_Bd)
    assert ((kept_Bn != 0).sum(1) == 3).all()
    error = (top3(x_Bd) - x_Bd).square().sum(1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        chosen_Bk = torch.rand(c_Bn.shape, generator=generator).topk(3, dim=1).indices
        other_Bn = torch.zeros_like(c_Bn).scatter(1, chosen_Bk, c_Bn.gather(1, chosen_Bk))
        assert (error <= (pca.decode(other_Bn) - x_Bd).square().sum(1) + 1e-3).all()
    assert fvu(top3, x_Bd) < fvu(fit_random(lambda: in_batches(x_Bd), 10, seed=0, k=3), x_Bd)


def test_randoms_gain_is_the_least_squares_one():
    x_Bd = correlated_rows()
    random = fit_random(lambda: in_batches(x_Bd), n_features=40, seed=0)
    best, gain = fvu(random, x_Bd), random.gain.item()
    assert best < 1
    for factor in (0.99, 1.01):
        random.gain.fill_(gain * factor)
        assert fvu(random, x_Bd) > best


def test_random_is_a_function_of_its_seed():
    x_Bd = correlated_rows()
    first, again, other = (fit_random(lambda: in_batches(x_Bd), 40, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.directions, again.directions)
    assert not torch.equal(first.directions, other.directions)


def test_identity_keeps_what_lies_above_the_mean_of_each_dimension():
    x_Bd = correlated_rows()
    identity = fit_identity(in_batches(x_Bd))
    torch.testing.assert_close(identity.encode(x_Bd), (x_Bd - x_Bd.mean(0)).relu(), rtol=0, atol=1e-5)
    torch.testing.assert_close(identity(x_Bd), torch.maximum(x_Bd, x_Bd.mean(0)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "fit", [fit_pca, fit_identity, lambda batches: fit_random(lambda: batches, n_features=4, seed=0)]
)
def test_no_rows_and_nan_are_refused(fit):
    with pytest.raises(ValueError, match="the batches hold no rows"):
        fit(iter([]))
    x_Bd = correlated_rows(8)
    x_Bd[6, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity in rows 4 to 7"):
        fit(iter(x_Bd.split(4)))
