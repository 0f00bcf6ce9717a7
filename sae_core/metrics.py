"""How well a dictionary rebuilds activations, and how sparsely.

    FVU  = Σ‖x − x̂‖² / Σ‖x − x̄‖²     over the whole sample, x̄ its mean
    L0   = mean over rows of the number of features with f ≠ 0;   l0_p5: the least that 5 % of the rows do not exceed
    L1   = mean over rows of Σ|f|

What it says of single features is defined in `sae_core.feature_statistics`.

Shapes: B rows, d activation width, n features.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sae_core.feature_statistics import ALIVE_ROWS, FeatureStatistics
from sae_core.moments import RowMoments


class Reconstruction(NamedTuple):
    """The result of `ReconstructionMetrics`."""

    values: dict[str, float | None]
    """fvu, mse, cosine, l0, l0_p5, l0_median, l0_p95, l1, dead_fraction, alive_fraction, rows; None where undefined."""

    undefined: dict[str, str]
    """Why, for each value that is None."""

    features: dict[str, Tensor]
    """The columns of `FeatureStatistics.result`, each [n] in float64."""

    rows_by_l0: Tensor
    """The distribution of L0: how many rows have 0, 1, …, n active features; int64 [n + 1]."""


class ReconstructionMetrics:
    """Streams (x, x̂, f) batches of one sample; sums in float64, so rows of norm 30,000 cost no digits."""

    def __init__(self, n_features: int):
        self.n_features = n_features
        self.moments = RowMoments()
        self.squared_error = torch.zeros((), dtype=torch.float64)
        self.cosine = torch.zeros((), dtype=torch.float64)
        self.features = FeatureStatistics(n_features)

    @torch.no_grad()
    def update(self, x_Bd: Float[Tensor, "B d"], xhat_Bd: Float[Tensor, "B d"], f_Bn: Float[Tensor, "B n"]) -> None:
        """Take in a batch: activations, their reconstruction, their codes."""
        if x_Bd.shape != xhat_Bd.shape or f_Bn.shape != (len(x_Bd), self.n_features):
            raise ValueError(
                f"x {list(x_Bd.shape)}, x̂ {list(xhat_Bd.shape)} and f {list(f_Bn.shape)} "
                f"are not of the same rows and of {self.n_features} features"
            )
        x_Bd, xhat_Bd = x_Bd.cpu().double(), xhat_Bd.cpu().double()
        self.moments.update(x_Bd)
        self.squared_error += (x_Bd - xhat_Bd).square().sum()
        if not torch.isfinite(self.squared_error):
            raise ValueError("the reconstruction holds NaN or infinity: the dictionary's weights are damaged")
        self.cosine += F.cosine_similarity(x_Bd, xhat_Bd, dim=1).sum()
        self.features.update(f_Bn)

    def result(self) -> Reconstruction:
        """Everything about the rows so far."""
        rows, variance = self.moments.rows, self.moments.scatter.sum().item()
        values: dict[str, float | None] = {"rows": float(rows)}
        undefined: dict[str, str] = {}

        def put(name: str, numerator: Tensor, denominator: float, reason: str) -> None:
            values[name] = (numerator / denominator).item() if denominator > 0 else None
            if denominator <= 0:
                undefined[name] = reason

        no_rows = "the sample has no rows"
        put("fvu", self.squared_error, variance, "all rows are the same: no variance" if rows else no_rows)
        put("mse", self.squared_error, rows * self.moments.mean_d.numel(), no_rows)
        put("cosine", self.cosine, rows, no_rows)
        active_n, rows_by_l0 = self.features.active_n, self.features.rows_by_l0
        put("l0", active_n.sum(), rows, no_rows)
        for name, share in (("l0_p5", 0.05), ("l0_median", 0.5), ("l0_p95", 0.95)):
            put(name, torch.searchsorted(rows_by_l0.cumsum(0), share * rows), float(rows > 0), no_rows)
        put("l1", self.features.sum_n.sum(), rows, no_rows)
        n_if_rows = self.n_features * float(rows > 0)
        put("dead_fraction", (active_n == 0).sum(), n_if_rows, no_rows)
        put("alive_fraction", (active_n > ALIVE_ROWS).sum(), n_if_rows, no_rows)
        return Reconstruction(values, undefined, self.features.result(), rows_by_l0)
