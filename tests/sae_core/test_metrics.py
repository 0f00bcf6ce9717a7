"""Each metric against its formula on the whole sample."""

import math

import pytest
import torch
from torch import Tensor

from sae_core import ReconstructionMetrics


def sample(offset: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """x, x̂ and codes of which feature 0 is never active, with one row of norm 30,000."""
    generator = torch.Generator().manual_seed(0)
    x_Bd = torch.randn(300, 6, generator=generator) + offset
    xhat_Bd = x_Bd + 0.3 * torch.randn(300, 6, generator=generator)
    x_Bd[17] *= 30_000 / x_Bd[17].norm()
    f_Bn = torch.randn(300, 9, generator=generator).relu()
    f_Bn[:, 0] = 0
    return x_Bd, xhat_Bd, f_Bn


def streamed(x_Bd: Tensor, xhat_Bd: Tensor, f_Bn: Tensor, size: int = 41) -> ReconstructionMetrics:
    metrics = ReconstructionMetrics(f_Bn.shape[1])
    for batch in zip(x_Bd.split(size), xhat_Bd.split(size), f_Bn.split(size), strict=True):
        metrics.update(*batch)
    return metrics


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_streamed_fvu_is_the_formula_on_the_whole_sample(offset: float):
    x_Bd, xhat_Bd, f_Bn = sample(offset)
    x, xhat = x_Bd.double(), xhat_Bd.double()
    expected = ((x - xhat).square().sum() / (x - x.mean(0)).square().sum()).item()
    assert streamed(x_Bd, xhat_Bd, f_Bn).result().values["fvu"] == pytest.approx(expected, rel=1e-10)


def test_rebuilding_the_mean_has_fvu_one_and_rebuilding_the_rows_zero():
    x_Bd, _, f_Bn = sample()
    assert streamed(x_Bd, x_Bd.mean(0).expand_as(x_Bd), f_Bn).result().values["fvu"] == pytest.approx(1, rel=1e-6)
    assert streamed(x_Bd, x_Bd, f_Bn).result().values["fvu"] == 0


def test_the_other_values_are_their_formulae():
    x_Bd, xhat_Bd, f_Bn = sample()
    result = streamed(x_Bd, xhat_Bd, f_Bn).result()
    l0_B = (f_Bn != 0).sum(1)
    expected = {
        "rows": 300,
        "mse": (x_Bd - xhat_Bd).square().mean().item(),
        "cosine": torch.nn.functional.cosine_similarity(x_Bd, xhat_Bd).mean().item(),
        "l0": l0_B.double().mean().item(),
        "l0_p5": l0_B.sort().values[300 * 5 // 100 - 1].item(),
        "l0_median": l0_B.median().item(),
        "l0_p95": l0_B.sort().values[300 * 95 // 100 - 1].item(),
        "l1": f_Bn.sum(1).mean().item(),
        "dead_fraction": 1 / 9,
        "alive_fraction": 8 / 9,
    }
    assert {name: result.values[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert torch.equal(result.rows_by_l0, torch.bincount(l0_B, minlength=10))
    density_n, mean_n = result.features["density"], result.features["mean"]
    torch.testing.assert_close(density_n, (f_Bn > 0).double().mean(0))
    assert math.isnan(mean_n[0])
    torch.testing.assert_close(mean_n[1:], f_Bn.double().sum(0)[1:] / (f_Bn > 0).sum(0)[1:])
    torch.testing.assert_close(result.features["max"], f_Bn.amax(0).double())


def test_signed_codes_count_by_magnitude():
    result = streamed(torch.eye(2), torch.eye(2), torch.tensor([[-3.0, 0.0], [1.0, 0.0]])).result()
    assert result.features["max"].tolist() == [3, 0]
    assert result.features["mean"][0] == 2
    assert result.values["l0"] == 1


def test_a_feature_is_alive_above_ten_rows_and_dead_at_none():
    f_Bn = torch.zeros(40, 4)
    f_Bn[:10, 1] = f_Bn[:11, 2] = f_Bn[:, 3] = 1
    values = streamed(torch.eye(40), torch.eye(40), f_Bn).result().values
    assert (values["dead_fraction"], values["alive_fraction"]) == (0.25, 0.5)


def test_what_is_undefined_is_none_with_a_reason():
    empty = ReconstructionMetrics(4).result()
    assert {name for name, value in empty.values.items() if value is None} == set(empty.undefined)
    assert set(empty.undefined) == set(empty.values) - {"rows"}
    assert empty.undefined["l0"] == "the sample has no rows"

    constant = streamed(torch.ones(5, 3), torch.zeros(5, 3), torch.zeros(5, 4)).result()
    assert constant.values["fvu"] is None
    assert constant.undefined == {"fvu": "all rows are the same: no variance"}
    assert constant.values["mse"] == 1


def test_rows_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="not of the same rows and of 4 features"):
        ReconstructionMetrics(4).update(torch.zeros(5, 3), torch.zeros(5, 3), torch.zeros(5, 7))


def test_a_reconstruction_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="the reconstruction holds NaN"):
        ReconstructionMetrics(4).update(torch.ones(5, 3), torch.full((5, 3), float("nan")), torch.zeros(5, 4))
