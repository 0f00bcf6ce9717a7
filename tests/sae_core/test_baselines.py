"""Baselines against what they are known to be."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sae_core import (
    ReconstructionMetrics,
    fit_ica,
    fit_identity,
    fit_nmf,
    fit_pca,
    fit_random,
    load_dictionary,
    one_to_one,
)
from sae_core.baselines import ica as ica_module
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


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("k", [None, 3])
def test_rectified_pca_rebuilds_as_signed_pca_does_from_codes_that_are_not_negative(centred: bool, k: int | None):
    x_Bd = correlated_rows()
    signed = fit_pca(in_batches(x_Bd), k, centred=centred)
    rectified = fit_pca(in_batches(x_Bd), k, centred=centred, rectify=True)
    f_Bn = rectified.encode(x_Bd)
    assert f_Bn.shape == (600, 20)
    assert (f_Bn >= 0).all()
    torch.testing.assert_close(f_Bn[:, :10] - f_Bn[:, 10:], signed.encode(x_Bd))
    torch.testing.assert_close(rectified(x_Bd), signed(x_Bd), rtol=0, atol=1e-4)


def test_uncentred_pca_has_the_singular_vectors_of_the_rows_as_they_are():
    x_Bd = correlated_rows()
    pca = fit_pca(in_batches(x_Bd), centred=False)
    _, _, theirs = np.linalg.svd(x_Bd.double().numpy(), full_matrices=False)
    cosines = np.abs((pca.directions.double().numpy() * theirs).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    assert not pca.decode(torch.zeros(10)).any(), "no code, no activation"


def laplacian_mixture(d: int = 5, count: int = 8000, offset: float = 3.0) -> tuple[Tensor, Tensor]:
    """Rows that mix independent Laplacian sources, and the unit vectors that each source is mixed with."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(d, d)) * np.array([1, 3, 1, 0.5, 1])[:d]
    rows = torch.tensor(rng.laplace(size=(count, d)) @ mixing + offset, dtype=torch.float32)
    return rows, torch.nn.functional.normalize(torch.tensor(mixing, dtype=torch.float32), dim=1)


def test_ica_finds_the_directions_that_independent_sources_are_mixed_with():
    x_Bd, true_nd = laplacian_mixture()
    ica = fit_ica(in_batches(x_Bd), seed=0)
    either_sign_nd = torch.cat([ica.directions, -ica.directions])
    assert one_to_one(true_nd, either_sign_nd).cosine_p.min() > 0.98
    torch.testing.assert_close(ica(x_Bd), x_Bd, rtol=0, atol=1e-3)
    codes_Bn = ica.encode(x_Bd)
    torch.testing.assert_close(torch.corrcoef(codes_Bn.T), torch.eye(5), rtol=0, atol=1e-4)
    assert (codes_Bn.var(0).diff() < 0).all(), "in descending order of variance"


def test_rectified_ica_rebuilds_exactly_from_codes_that_are_not_negative():
    x_Bd, _ = laplacian_mixture()
    rectified = fit_ica(in_batches(x_Bd), seed=0, rectify=True)
    f_Bn = rectified.encode(x_Bd)
    assert f_Bn.shape[1] == 10
    assert (f_Bn >= 0).all()
    torch.testing.assert_close(rectified(x_Bd), x_Bd, rtol=0, atol=1e-3)


def test_ica_has_as_many_components_as_the_rows_have_dimensions():
    x_Bd, _ = laplacian_mixture()
    flat_Bd = torch.cat([x_Bd, x_Bd[:, :2].sum(1, keepdim=True), torch.ones(len(x_Bd), 1)], dim=1)
    ica = fit_ica(in_batches(flat_Bd), seed=0)
    assert ica.n_features == 5
    torch.testing.assert_close(ica(flat_Bd), flat_Bd, rtol=0, atol=1e-3)


def test_ica_is_a_function_of_its_seed_and_of_its_first_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ica_module, "MOST_ROWS", 1000)
    x_Bd, _ = laplacian_mixture()
    drawn = []
    stream = (drawn.append(len(part)) or part for part in x_Bd.split(300))
    first, again = fit_ica(stream, seed=3), fit_ica(in_batches(x_Bd[:1000]), seed=3)
    assert torch.equal(first.directions, again.directions)
    assert sum(drawn) == 1200, "no more batches are drawn than needed"


def test_ica_that_does_not_converge_warns_and_is_a_basis_all_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ica_module, "MAX_ITERATIONS", 1)
    x_Bd, _ = laplacian_mixture()
    with pytest.warns(ConvergenceWarning, match="did not converge in 1 iterations on 8000 rows"):
        ica = fit_ica(in_batches(x_Bd), seed=0)
    torch.testing.assert_close(ica(x_Bd), x_Bd, rtol=0, atol=1e-3)


def test_ica_of_too_few_or_equal_rows_is_refused():
    with pytest.raises(ValueError, match="width 10 needs more rows than that, and got 10"):
        fit_ica(in_batches(correlated_rows(10)), seed=0)
    with pytest.raises(ValueError, match="all 40 rows are the same"):
        fit_ica(iter([torch.full((40, 3), 7.0)]), seed=0)


def planted_factors(count: int = 3000, n: int = 6, d: int = 24, shift: float = -4.0) -> tuple[Tensor, Tensor]:
    """Rows that sum few non-negative factors each, shifted; and the factors."""
    generator = torch.Generator().manual_seed(0)
    factors_nd = torch.rand(n, d, generator=generator) * (torch.rand(n, d, generator=generator) < 0.3)
    codes_Bn = torch.rand(count, n, generator=generator) * (torch.rand(count, n, generator=generator) < 0.1)
    return codes_Bn @ factors_nd + shift, factors_nd


def test_nmf_finds_planted_factors():
    x_Bd, factors_nd = planted_factors()
    nmf = fit_nmf(lambda: in_batches(x_Bd), n_features=6, seed=0)
    assert one_to_one(factors_nd, nmf.directions).cosine_p.min() > 0.98
    assert fvu(nmf, x_Bd) < 0.01
    assert (nmf.directions >= 0).all()


def test_nmfs_codes_solve_the_non_negative_least_squares_problem():
    x_Bd, _ = planted_factors()
    nmf = fit_nmf(lambda: in_batches(x_Bd), n_features=6, seed=0).double()
    held_out_Bd = planted_factors(50)[0].double() + torch.rand(50, 24, dtype=torch.float64)
    held_out_Bd[0] = -100  # below every minimum
    f_Bn = nmf.encode(held_out_Bd)
    shifted_Bd = (held_out_Bd - nmf.center_d).relu()
    theirs_Bn = np.stack([nnls(nmf.directions.T.numpy(), row)[0] for row in shifted_Bd.numpy()])
    np.testing.assert_allclose(f_Bn, theirs_Bn, atol=1e-6)
    assert not f_Bn[0].any()
    torch.testing.assert_close(nmf(held_out_Bd)[0], nmf.center_d)


def test_nmf_is_a_function_of_its_seed_and_reads_a_short_stream_again():
    x_Bd, _ = planted_factors(100)
    first = fit_nmf(lambda: in_batches(x_Bd, 100), n_features=8, seed=1)
    again = fit_nmf(lambda: in_batches(x_Bd, 9), n_features=8, seed=1)
    assert torch.equal(first.directions, again.directions)


def test_nmf_of_too_few_or_equal_rows_is_refused():
    with pytest.raises(ValueError, match="NMF of 6 features needs at least as many rows, and got 5"):
        fit_nmf(lambda: in_batches(correlated_rows(5)), n_features=6, seed=0)
    with pytest.raises(ValueError, match="all 40 rows are the same"):
        fit_nmf(lambda: iter([torch.full((40, 3), 7.0)]), n_features=2, seed=0)


def fitted_ones() -> list[Dictionary]:
    x_Bd, _ = laplacian_mixture(count=400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [
            fit_pca(in_batches(x_Bd), k=4, centred=False, rectify=True),
            fit_ica(in_batches(x_Bd), seed=0),
            fit_ica(in_batches(x_Bd), seed=0, k=4, rectify=True),
            fit_nmf(lambda: in_batches(x_Bd), n_features=7, seed=0),
            fit_nmf(lambda: in_batches(x_Bd), n_features=7, seed=0, k=2),
        ]


@pytest.mark.parametrize("dictionary", fitted_ones(), ids=lambda one: f"{one.method}-{one.k}-{one.rectify}")
def test_a_baseline_is_a_dictionary_like_any_other(dictionary: Dictionary, tmp_path: Path):
    x_Bd, _ = laplacian_mixture(count=50)
    # 1e-2: NMF iterates, and BLAS rounds by the shape and alignment of its inputs.
    torch.testing.assert_close(dictionary.directions.norm(dim=1), torch.ones(dictionary.n_features))
    torch.testing.assert_close(dictionary(x_Bd.view(5, 10, 5)).view(50, 5), dictionary(x_Bd), rtol=0, atol=1e-2)
    dictionary.save(tmp_path)
    torch.testing.assert_close(load_dictionary(tmp_path)(x_Bd), dictionary(x_Bd), rtol=0, atol=1e-2)

    dictionary, z_Bd, mean_d, scale = dictionary.double(), x_Bd.double(), torch.arange(5.0).double(), 17.3
    raw_Bd = scale * z_Bd + mean_d
    folded = dictionary.fold_normalization(mean_d, scale)
    torch.testing.assert_close(folded.encode(raw_Bd), scale * dictionary.encode(z_Bd), rtol=0, atol=1e-9)
    torch.testing.assert_close(folded(raw_Bd), scale * dictionary(z_Bd) + mean_d, rtol=0, atol=1e-9)


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


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("k", [0, 11])
def test_k_must_fit_into_the_features(k: int):
    x_Bd = correlated_rows()
    for fit in (
        lambda: fit_pca(in_batches(x_Bd), k=k),
        lambda: fit_ica(in_batches(x_Bd), seed=0, k=k),
        lambda: fit_nmf(lambda: in_batches(x_Bd), n_features=10, seed=0, k=k),
    ):
        with pytest.raises(ValueError, match=f"k={k} must lie between 1 and n_features=10"):
            fit()


@pytest.mark.parametrize(
    "fit",
    [
        fit_pca,
        fit_identity,
        lambda batches: fit_random(lambda: batches, n_features=4, seed=0),
        lambda batches: fit_ica(batches, seed=0),
        lambda batches: fit_nmf(lambda: batches, n_features=4, seed=0),
    ],
)
def test_no_rows_and_nan_are_refused(fit):
    with pytest.raises(ValueError, match="the batches hold no rows"):
        fit(iter([]))
    x_Bd = correlated_rows(8)
    x_Bd[6, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity in rows 4 to 7"):
        fit(iter(x_Bd.split(4)))
