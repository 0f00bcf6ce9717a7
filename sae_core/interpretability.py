"""How well simulated activations predict true ones (Bills et al. 2023).

    r = Σ (x − x̄)(y − ȳ) / √( Σ (x − x̄)² Σ (y − ȳ)² )        true x, simulated y, over the tokens of all fragments
    x ≈ slope · y + intercept,  least squares: the calibration

Tokens of all fragments together: the mean of the fragments' own correlations would be another number. A token without a
simulated value counts in neither. The interval resamples whole fragments, as tokens of one fragment are alike.

Shapes: F fragments, P tokens a fragment, R resamples.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

RESAMPLES = 1000

DEFINED = 0.9
"""Share of the resamples that must have a correlation for there to be an interval."""

ROUNDING = 1e-12


class Score(NamedTuple):
    """A correlation with its 95 % interval, and the calibration. None where undefined; `reason` says why."""

    r: float | None
    low: float | None
    high: float | None
    slope: float | None
    intercept: float | None
    tokens: int
    """That have a simulated value."""
    reason: str | None


def score(true_FP: Float[Tensor, "F P"], simulated_FP: Float[Tensor, "F P"], generator: torch.Generator) -> Score:
    """The score of simulated activations, which are NaN where there are none. `generator` draws the resamples."""
    there_FP = ~simulated_FP.isnan()
    tokens = int(there_FP.sum())
    x, y = true_FP[there_FP].double(), simulated_FP[there_FP].double()
    reason = _why_undefined(x, y)
    if reason is not None:
        return Score(None, None, None, None, None, tokens, reason)

    zero = torch.zeros((), dtype=torch.float64)
    x_FP, y_FP = (
        torch.where(there_FP, values.double() - mean, zero)
        for values, mean in ((true_FP, x.mean()), (simulated_FP, y.mean()))
    )
    products = (there_FP.double(), x_FP, y_FP, x_FP * x_FP, y_FP * y_FP, x_FP * y_FP)
    sums_F6 = torch.stack([values.sum(1) for values in products], 1)
    fragments = len(sums_F6)
    drawn_RF = torch.randint(fragments, (RESAMPLES, fragments), generator=generator)
    r_R = _correlation(sums_F6[drawn_RF].sum(1))
    r_R = r_R[~r_R.isnan()]
    edges = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = r_R.quantile(edges).tolist() if len(r_R) >= DEFINED * RESAMPLES else (None, None)

    whole = sums_F6.sum(0)
    slope = (whole[5] / whole[4]).item()
    intercept = (x.mean() - slope * y.mean()).item()
    return Score(_correlation(whole).item(), low, high, slope, intercept, tokens, None)


def _correlation(sums: Float[Tensor, "*R 6"]) -> Float[Tensor, "*R"]:
    """From n, Σx, Σy, Σx², Σy² and Σxy; NaN where x or y is the same everywhere."""
    n, x, y, xx, yy, xy = sums.unbind(-1)
    variance_x, variance_y = n * xx - x * x, n * yy - y * y
    varies = (variance_x > ROUNDING * n * xx) & (variance_y > ROUNDING * n * yy)
    r = ((n * xy - x * y) / (variance_x * variance_y).sqrt()).clamp(-1, 1)
    return torch.where(varies, r, torch.nan)


def _why_undefined(x: Float[Tensor, " T"], y: Float[Tensor, " T"]) -> str | None:
    if not len(x):
        return "no token has a simulated activation"
    if x.min() == x.max():
        return "the activation is the same on all tokens that are scored"
    if y.min() == y.max():
        return "the simulated activation is the same on all tokens that are scored"
    return None
