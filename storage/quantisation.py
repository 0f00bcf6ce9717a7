"""Activations in one byte a number: standardised per dimension, then scaled per row.

    z = (x − mean) / spread        scale = max|z| / 127        q = round(z / scale)        x ≈ mean + spread · scale · q

The dimensions of a residual stream differ in size by a factor of fifty: a scale per row alone would leave the
small ones nothing (FVU 1.9e-3 against 6e-5, docs/numbers.md). Rows differ too, so each has a scale of its own.

Shapes: r rows, d activation width.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int8
from torch import Tensor

MISSING = -128
"""The one number that no activation is stored as."""

# Attention sinks are left out where the spread is measured: with norms hundreds of times the median they would
# coarsen the steps of all other rows.
_SINK_NORM_RATIO = 10.0


class Quantised(NamedTuple):
    q_rd: Int8[Tensor, "r d"]
    scale_r: Float[Tensor, " r"]
    mean_d: Float[Tensor, " d"]
    spread_d: Float[Tensor, " d"]


def quantise(x_rd: Float[Tensor, "r d"]) -> Quantised:
    """Finite rows in one byte a number. A dimension that is constant comes back exactly."""
    x_rd = x_rd.float()
    norms = torch.linalg.vector_norm(x_rd, dim=1)
    usual = x_rd[norms <= _SINK_NORM_RATIO * norms.median()]
    spread, mean = torch.std_mean(usual, dim=0, correction=0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    z = (x_rd - mean) / spread
    scale = z.abs().amax(dim=1) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return Quantised((z / scale[:, None]).round_().to(torch.int8), scale, mean, spread)


def dequantise(stored: Quantised) -> Float[Tensor, "r d"]:
    """The rows, float32."""
    return torch.addcmul(stored.mean_d, stored.q_rd * stored.scale_r[:, None], stored.spread_d)
