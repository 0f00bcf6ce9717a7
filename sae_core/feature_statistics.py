"""What each feature does over a sample: how often, how much, and with a distribution of what shape.

    density = share of rows with f ≠ 0;   mean of |f| over those rows;   max of |f|
    alive = active on more than 10 rows of the sample, as in the paper;   dead = active on none

    skew = E[(f − f̄)³] / v^1.5        kurtosis = E[(f − f̄)⁴] / v²        v = E[(f − f̄)²]      3 for a normal one
    skew_uncentred = E[f³] / v^1.5    kurtosis_uncentred = E[f⁴] / v²    as the paper's code has them

E is the mean over all rows, those where the feature is not active included. Sums of powers would cancel, so what is
kept are central moments, merged batch by batch (Pébay 2008); the zeros are one more batch, merged in last. Only the
codes that are not zero are ever read, so sparse codes cost little.

Shapes: B rows, n features, E codes that are not zero.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

ALIVE_ROWS = 10
"""A feature that is active on more rows than this is alive."""

ROUNDING = 1e-13
"""A standard deviation below this share of the mean is float64 rounding of codes that are all the same."""


class CentralSums(NamedTuple):
    """Rows, mean and Σ(f − f̄)^p for p = 2, 3, 4, each float64 [n]."""

    rows: Tensor
    mean: Tensor
    second: Tensor
    third: Tensor
    fourth: Tensor

    @classmethod
    def zeros(cls, rows_n: Tensor) -> "CentralSums":
        """Of so many codes that are all 0."""
        return cls(rows_n.double(), *torch.zeros(4, len(rows_n), dtype=torch.float64))

    @classmethod
    def of(cls, feature_E: Tensor, value_E: Tensor, n_features: int) -> "CentralSums":
        """Of values of which each belongs to a feature."""

        def total(weight_E: Tensor) -> Tensor:
            return torch.bincount(feature_E, weight_E, minlength=n_features)

        rows_n = torch.bincount(feature_E, minlength=n_features).double()
        mean_n = total(value_E) / rows_n.clamp_min(1)
        centred_E = value_E - mean_n[feature_E]
        square_E = centred_E.square()
        return cls(rows_n, mean_n, total(square_E), total(square_E * centred_E), total(square_E.square()))

    def merge(self, other: "CentralSums") -> "CentralSums":
        """Of both samples together."""
        a, b = self.rows, other.rows
        n = (a + b).clamp_min(1)
        delta = other.mean - self.mean
        return CentralSums(
            a + b,
            self.mean + delta * b / n,
            self.second + other.second + delta**2 * a * b / n,
            self.third
            + other.third
            + delta**3 * a * b * (a - b) / n**2
            + 3 * delta * (a * other.second - b * self.second) / n,
            self.fourth
            + other.fourth
            + delta**4 * a * b * (a**2 - a * b + b**2) / n**3
            + 6 * delta**2 * (a**2 * other.second + b**2 * self.second) / n**2
            + 4 * delta * (a * other.third - b * self.third) / n,
        )


class FeatureStatistics:
    """Streams the codes of one sample."""

    def __init__(self, n_features: int):
        self.rows = 0
        self.active_n = torch.zeros(n_features, dtype=torch.int64)
        self.sum_n = torch.zeros(n_features, dtype=torch.float64)
        self.max_n = torch.zeros(n_features, dtype=torch.float64)
        self.active_sums = CentralSums.zeros(self.active_n)
        self.rows_by_l0 = torch.zeros(n_features + 1, dtype=torch.int64)

    @torch.no_grad()
    def update(self, f_Bn: Float[Tensor, "B n"]) -> None:
        """Take in the codes of a batch."""
        row_E, feature_E = f_Bn.nonzero(as_tuple=True)
        value_E = f_Bn[row_E, feature_E].cpu().double()
        row_E, feature_E = row_E.cpu(), feature_E.cpu()
        self.rows += len(f_Bn)
        self.active_n += torch.bincount(feature_E, minlength=len(self.active_n))
        self.active_sums = self.active_sums.merge(CentralSums.of(feature_E, value_E, len(self.active_n)))
        self.sum_n += torch.bincount(feature_E, value_E.abs(), minlength=len(self.sum_n))
        self.max_n.scatter_reduce_(0, feature_E, value_E.abs(), "amax")
        l0_B = torch.bincount(row_E, minlength=len(f_Bn))
        self.rows_by_l0 += torch.bincount(l0_B, minlength=len(self.rows_by_l0))

    def result(self) -> dict[str, Float[Tensor, "n"]]:
        """The statistics of the module's head for each feature, float64. NaN where undefined: the mean of a feature
        that is never active; skew and kurtosis of one that is the same on every row."""
        sums = self.active_sums.merge(CentralSums.zeros(self.rows - self.active_n))
        mean, variance, third, fourth = sums.mean, *(power / self.rows for power in sums[2:])
        variance = torch.where(variance > (ROUNDING * mean).square(), variance, torch.nan)
        return {
            "density": self.active_n.double() / max(self.rows, 1),
            "mean": self.sum_n / self.active_n,
            "max": self.max_n,
            "skew": third / variance**1.5,
            "kurtosis": fourth / variance**2,
            "skew_uncentred": (third + 3 * mean * variance + mean**3) / variance**1.5,
            "kurtosis_uncentred": (fourth + 4 * mean * third + 6 * mean**2 * variance + mean**4) / variance**2,
        }
