"""Centring and scaling to unit variance, as one exactly invertible transform.

    z = (x − mean) / scale        scale = √( mean over dimensions of the variance )

One scalar for all dimensions keeps angles, so a direction found in z is the same direction in x, and the
whole transform folds into a dictionary's biases (`Dictionary.fold_normalization`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.moments import RowMoments


@dataclass(frozen=True)
class Normalization:
    """z = (x − mean) / scale."""

    mean_d: Float[Tensor, "d"]
    scale: float

    def apply(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B d"]:
        """Normalised rows, in float32 or better; the caller's stay as they are."""
        x_Bd = x_Bd.to(torch.promote_types(x_Bd.dtype, torch.float32))  # a mean rounded to half precision would shift
        return (x_Bd - self.mean_d.to(x_Bd)) / self.scale

    def invert(self, z_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B d"]:
        """Rows in raw units again."""
        return z_Bd * self.scale + self.mean_d.to(z_Bd)


def fit_normalization(batches: Iterator[Tensor]) -> Normalization:
    """Mean (float64) and scale of a stream of rows [B, d], in one pass.

    Raises ValueError when there are no rows, when a value is not finite, and when all rows are the same.
    """
    moments = RowMoments.of(batches)
    scale = (moments.scatter.mean() / moments.rows).sqrt().item()
    if scale == 0:
        raise ValueError(f"all {moments.rows} rows are the same: they have no variance to scale to 1")
    return Normalization(moments.mean_d, scale)
