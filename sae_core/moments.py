"""Mean and scatter of a stream of rows, in one pass and in float64 (Chan, Golub & LeVeque 1979).

    S = Σ (x − x̄)(x − x̄)ᵀ        merging a and b:  S = S_a + S_b + (n_a n_b / n) δ δᵀ,  δ = x̄_b − x̄_a

Each batch is centred on its own mean before it is squared: Σx² − n x̄² would lose every digit to a large
offset.
"""

from collections.abc import Iterator
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor


class RowMoments:
    """Running count, mean [d] and scatter of rows: the diagonal [d], or all of it [d, d] when `full`."""

    def __init__(self, full: bool = False):
        self.full = full
        self.rows = 0
        self.mean_d: Tensor = torch.zeros((), dtype=torch.float64)
        self.scatter: Tensor = torch.zeros((), dtype=torch.float64)

    def update(self, x_Bd: Float[Tensor, "B d"]) -> None:
        """Take in a batch. Raises ValueError where it holds NaN or infinity."""
        if len(x_Bd) == 0:
            return
        x_Bd = x_Bd.detach().double()
        mean_d = x_Bd.mean(0)
        if not torch.isfinite(mean_d).all():
            raise ValueError(
                f"activations hold NaN or infinity in rows {self.rows} to {self.rows + len(x_Bd) - 1}. "
                "Check the model's dtype and make the activations again"
            )
        centred_Bd = x_Bd - mean_d
        delta_d = mean_d - self.mean_d
        weight = self.rows * len(x_Bd) / (self.rows + len(x_Bd))
        if self.full:
            self.scatter = self.scatter + centred_Bd.T @ centred_Bd + weight * torch.outer(delta_d, delta_d)
        else:
            self.scatter = self.scatter + centred_Bd.square().sum(0) + weight * delta_d.square()
        self.rows += len(x_Bd)
        self.mean_d = self.mean_d + delta_d * (len(x_Bd) / self.rows)

    @classmethod
    def of(cls, batches: Iterator[Tensor], full: bool = False) -> Self:
        """The moments of all rows. Raises ValueError when there is none."""
        moments = cls(full)
        for x_Bd in batches:
            moments.update(x_Bd)
        if moments.rows == 0:
            raise ValueError("the batches hold no rows: there is nothing to fit. Check the activations' size and split")
        return moments
