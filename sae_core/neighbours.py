"""Which directions of a dictionary point where another one does.

    cosine_ij = u_i·u_j        u: unit vectors

Shapes: d activation width, n features, k neighbours, b features of a block.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS_AT_ONCE = 1024


class Neighbours(NamedTuple):
    """Of each feature, those with the largest cosine, in descending order; never itself."""

    feature_nk: Int[Tensor, "n k"]
    cosine_nk: Float[Tensor, "n k"]


@torch.no_grad()
def neighbours(directions_nd: Float[Tensor, "n d"], how_many: int) -> Neighbours:
    """So many of each feature, or all others where there are fewer. Keeps ROWS_AT_ONCE·n cosines at a time."""
    n = len(directions_nd)
    parts = []
    for first in range(0, n, ROWS_AT_ONCE):
        cosine_bn = directions_nd[first : first + ROWS_AT_ONCE] @ directions_nd.T
        own = torch.arange(len(cosine_bn), device=cosine_bn.device)
        cosine_bn[own, own + first] = -torch.inf
        parts.append(cosine_bn.topk(min(how_many, n - 1), dim=1))
    return Neighbours(torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts]))
