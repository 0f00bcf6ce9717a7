"""Centring and scaling: to unit variance, invertibly, in one pass."""

import pytest
import torch

from sae_core import fit_normalization
from sae_core.moments import RowMoments


def test_normalised_rows_have_mean_zero_and_mean_variance_one():
    x_Bd = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8) + 100
    z_Bd = fit_normalization(iter(x_Bd.split(33))).apply(x_Bd)
    torch.testing.assert_close(z_Bd.mean(0), torch.zeros(7), rtol=0, atol=1e-5)
    assert z_Bd.var(0, correction=0).mean().item() == pytest.approx(1, abs=1e-5)


def test_invert_undoes_apply_and_the_callers_rows_stay_as_they_are():
    x_Bd = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 30 + 100
    before = x_Bd.clone()
    normalization = fit_normalization(iter([x_Bd]))
    torch.testing.assert_close(normalization.invert(normalization.apply(x_Bd)), x_Bd, rtol=1e-14, atol=1e-12)
    assert torch.equal(x_Bd, before)


def test_half_precision_rows_are_normalised_in_float32():
    x_Bd = (torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) + 100.02).half()
    z_Bd = fit_normalization(iter([x_Bd])).apply(x_Bd)
    assert z_Bd.dtype == torch.float32
    torch.testing.assert_close(z_Bd.mean(0), torch.zeros(7), rtol=0, atol=1e-5)


def test_rows_that_are_all_the_same_cannot_be_scaled():
    with pytest.raises(ValueError, match="all 5 rows are the same"):
        fit_normalization(iter([torch.ones(5, 3)]))


@pytest.mark.parametrize("full", [False, True])
def test_streamed_moments_are_those_of_the_whole_sample_at_an_offset_of_ten_million(full: bool):
    x_Bd = torch.randn(400, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e7
    moments = RowMoments.of(iter([*x_Bd.split([1, 99, 300]), x_Bd[:0]]), full)
    centred_Bd = x_Bd - x_Bd.mean(0)
    expected = centred_Bd.T @ centred_Bd
    torch.testing.assert_close(moments.mean_d, x_Bd.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.scatter, expected if full else expected.diag(), rtol=1e-7, atol=1e-5)
