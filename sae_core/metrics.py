"""How well a dictionary rebuilds activations, how sparsely, and how alike two dictionaries are.

    FVU  = Σ‖x − x̂‖² / Σ‖x − x̄‖²     over the whole sample, x̄ its mean
    L0   = mean over rows of the number of features with f ≠ 0
    density of a feature = share of rows with f ≠ 0;   dead = active on no row of the sample
    MMCS(a, b) = mean over a's directions of the largest cosine with one of b's

Shapes: B rows, d activation width, n features.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.moments import RowMoments


class Reconstruction(NamedTuple):
    """The result of `ReconstructionMetrics`."""

    values: dict[str, float | None]
    """fvu, mse, cosine, l0, l0_median, l1, dead_fraction, rows; None where undefined."""

    undefined: dict[str, str]
    """Why, for each value that is None."""

    features: dict[str, Tensor]
    """For each feature [n], float64: density (share of rows active), mean (of |f| over the rows where it is
    active; NaN where there are none), max (of |f| over all rows)."""

    rows_by_l0: Tensor
    """The distribution of L0: how many rows have 0, 1, …, n active features; int64 [n + 1]."""


class ReconstructionMetrics:
    """Streams (x, x̂, f) batches of one sample; sums in float64, so rows of norm 30,000 cost no digits."""

    def __init__(self, n_features: int):
        self.moments = RowMoments()
        self.squared_error = torch.zeros((), dtype=torch.float64)
        self.cosine = torch.zeros((), dtype=torch.float64)
        self.active_n = torch.zeros(n_features, dtype=torch.int64)
        self.sum_n = torch.zeros(n_features, dtype=torch.float64)
        self.max_n = torch.zeros(n_features, dtype=torch.float64)
        self.rows_by_l0 = torch.zeros(n_features + 1, dtype=torch.int64)

    @torch.no_grad()
    def update(self, x_Bd: Float[Tensor, "B d"], xhat_Bd: Float[Tensor, "B d"], f_Bn: Float[Tensor, "B n"]) -> None:
        """Take in a batch: activations, their reconstruction, their codes."""
        if x_Bd.shape != xhat_Bd.shape or f_Bn.shape != (len(x_Bd), len(self.active_n)):
            raise ValueError(
                f"x {list(x_Bd.shape)}, x̂ {list(xhat_Bd.shape)} and f {list(f_Bn.shape)} "
                f"are not of the same rows and of {len(self.active_n)} features"
            )
        x_Bd, xhat_Bd, f_Bn = x_Bd.cpu().double(), xhat_Bd.cpu().double(), f_Bn.cpu()
        self.moments.update(x_Bd)
        self.squared_error += (x_Bd - xhat_Bd).square().sum()
        if not torch.isfinite(self.squared_error):
            raise ValueError("the reconstruction holds NaN or infinity: the dictionary's weights are damaged")
        self.cosine += F.cosine_similarity(x_Bd, xhat_Bd, dim=1).sum()
        active_Bn = f_Bn != 0
        self.active_n += active_Bn.sum(0)
        self.sum_n += f_Bn.abs().sum(0, dtype=torch.float64)
        if len(f_Bn):
            self.max_n = torch.maximum(self.max_n, f_Bn.abs().amax(0).double())
        self.rows_by_l0 += torch.bincount(active_Bn.sum(1), minlength=len(self.rows_by_l0))

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
        put("l0", self.active_n.sum(), rows, no_rows)
        median = torch.searchsorted(self.rows_by_l0.cumsum(0), rows / 2)
        put("l0_median", median, float(rows > 0), no_rows)
        put("l1", self.sum_n.sum(), rows, no_rows)
        put("dead_fraction", (self.active_n == 0).sum(), len(self.active_n) * float(rows > 0), no_rows)
        features = {
            "density": self.active_n.double() / max(rows, 1),
            "mean": self.sum_n / self.active_n,
            "max": self.max_n,
        }
        return Reconstruction(values, undefined, features, self.rows_by_l0)


def mmcs(a_nd: Float[Tensor, "n d"], b_md: Float[Tensor, "m d"]) -> float:
    """Mean max cosine similarity, **averaged over a's rows**: how well each of a's directions is represented
    in b.

    Signed cosines, rows normalised here. Not symmetric: the paper's own code averages over its second
    argument.
    """
    if len(a_nd) == 0 or len(b_md) == 0:
        raise ValueError(f"MMCS of {len(a_nd)} with {len(b_md)} directions is undefined: neither side may be empty")
    a_nd, b_md = F.normalize(a_nd.detach(), dim=1), F.normalize(b_md.detach(), dim=1)
    return torch.cat([(part @ b_md.T).amax(1) for part in a_nd.split(2048)]).double().mean().item()


def true_to_learned(true_nd: Float[Tensor, "n d"], learned_md: Float[Tensor, "m d"]) -> float:
    """Are the true features found? MMCS averaged over the true ones; blind to learned junk."""
    return mmcs(true_nd, learned_md)


def learned_to_true(
    learned_md: Float[Tensor, "m d"], true_nd: Float[Tensor, "n d"], alive_m: Bool[Tensor, "m"] | None = None
) -> float:
    """Are the learned features true? MMCS averaged over the learned ones, over those `alive` only when that
    is given: a dead feature keeps the direction that it was initialised with."""
    return mmcs(learned_md if alive_m is None else learned_md[alive_m], true_nd)
