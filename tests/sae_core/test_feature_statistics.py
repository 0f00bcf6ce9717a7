"""Statistics of features against scipy and numpy on the whole sample."""

import numpy as np
import pytest
import scipy.stats
import torch

from sae_core import FeatureStatistics


def codes() -> torch.Tensor:
    """Sparse; dense and signed; dense with an offset a million times its deviation; never active; constant."""
    generator = torch.Generator().manual_seed(0)
    f_Bn = torch.randn(500, 6, generator=generator, dtype=torch.float64)
    f_Bn[:, 0] = f_Bn[:, 0].abs() * (torch.rand(500, generator=generator) < 0.04)
    f_Bn[:, 2] = f_Bn[:, 2].exp() + 1e6
    f_Bn[:, 3] = 0
    f_Bn[:, 4] = 0.1
    f_Bn[:200, 5] = 0  # some batches without, some with
    return f_Bn


def streamed(f_Bn: torch.Tensor, size: int) -> dict[str, np.ndarray]:
    statistics = FeatureStatistics(f_Bn.shape[1])
    for part in f_Bn.split(size):
        statistics.update(part)
    return {name: values.numpy() for name, values in statistics.result().items()}


@pytest.mark.parametrize("size", [1, 41, 500])
def test_moments_are_those_of_the_whole_sample_however_it_is_cut(size: int):
    f = codes().numpy()
    found, varied = streamed(codes(), size), [0, 1, 2, 5]
    np.testing.assert_allclose(found["skew"][varied], scipy.stats.skew(f[:, varied]), rtol=1e-6)
    kurtosis = scipy.stats.kurtosis(f[:, varied], fisher=False)
    np.testing.assert_allclose(found["kurtosis"][varied], kurtosis, rtol=1e-6)
    variance = f[:, varied].var(0)
    np.testing.assert_allclose(found["skew_uncentred"][varied], (f[:, varied] ** 3).mean(0) / variance**1.5, rtol=1e-6)
    np.testing.assert_allclose(
        found["kurtosis_uncentred"][varied], (f[:, varied] ** 4).mean(0) / variance**2, rtol=1e-6
    )


@pytest.mark.parametrize("size", [1, 41, 500])
def test_a_feature_without_variance_has_no_moments(size: int):
    found = streamed(codes(), size)
    for name in ("skew", "kurtosis", "skew_uncentred", "kurtosis_uncentred"):
        assert np.isnan(found[name]).tolist() == [False, False, False, True, True, False]
    assert np.isnan(found["mean"]).tolist() == [False, False, False, True, False, False]


def test_no_rows_give_no_moments():
    found = streamed(torch.zeros(0, 2), 1)
    assert found["density"].tolist() == [0, 0]
    assert np.isnan(found["skew"]).all()
