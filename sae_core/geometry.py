"""How much of a dimension each feature has to itself (Scherlis et al. 2022).

    capacity_i = (u_i·u_i)² / Σ_j (u_i·u_j)²

1 for a direction that is orthogonal to all others, 1/m for m copies of one; an orthonormal basis has d in all.
"""

import torch
from jaxtyping import Float
from torch import Tensor

ROWS_AT_ONCE = 2048


def capacity(directions_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """Capacity of each direction, in (0, 1]; NaN for a zero one. Keeps ROWS_AT_ONCE·n cosines at a time."""
    u_nd = directions_nd.detach()
    overlap_n = torch.cat([(part @ u_nd.T).square().sum(1) for part in u_nd.split(ROWS_AT_ONCE)])
    return u_nd.square().sum(1).square() / overlap_n
