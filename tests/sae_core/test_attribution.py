"""Indirect effects from gradients, beside those that are exact."""

import pytest
import torch
from torch import Tensor

from sae_core.attribution import gradient, indirect_effects, integrated_gradient
from sae_core.interventions import keep_only, patch
from tests.sae_core.zoo import noise

D, N = 6, 10
X, CHANGE, WRITES = noise(4, D), noise(4, N, seed=1), noise(N, D, seed=2)


def exact(metric: object) -> Tensor:
    """The effect of moving one feature, in all rows."""
    alone = [patch(X, keep_only(CHANGE, torch.tensor([feature])), WRITES) for feature in range(N)]
    return torch.stack([metric(x) - metric(X) for x in alone])  # pyright: ignore[reportCallIssue]


def test_of_a_linear_metric_attribution_is_exact():
    weights = noise(4, D, seed=3)

    def metric(x: Tensor) -> Tensor:
        return (weights * x).sum()

    effects = indirect_effects(gradient(metric, X), CHANGE, WRITES).sum(0)
    torch.testing.assert_close(effects, exact(metric))


def test_integrated_effects_add_up_to_the_whole_effect():
    def metric(x: Tensor) -> Tensor:
        return x.sum(1).square().sum() + x.square().sum()  # its gradient is linear: midpoints integrate it exactly

    changed = patch(X, CHANGE, WRITES)
    mean = integrated_gradient(metric, X, changed - X, steps=1)
    whole = indirect_effects(mean, CHANGE, WRITES).sum()
    assert whole.item() == pytest.approx((metric(changed) - metric(X)).item())
    at_x = indirect_effects(gradient(metric, X), CHANGE, WRITES).sum()
    assert at_x.item() != pytest.approx(whole.item(), rel=0.05)


def test_the_mean_gradient_takes_as_many_points_as_it_is_told():
    def metric(x: Tensor) -> Tensor:
        return x.pow(4).sum()

    changed = X + 1
    whole = (metric(changed) - metric(X)).item()
    errors = [
        abs((integrated_gradient(metric, X, torch.ones_like(X), steps) * 1.0).sum().item() - whole)
        for steps in (1, 4, 16)
    ]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
