"""Indirect effects of features, estimated from gradients (Marks et al. 2024, section 3).

The effect on a metric m of moving every code of feature j from f_j to f'_j, to first order at x:

    ÎE_j = Σ_rows (∂m/∂x · w_j) (f'_j − f_j)

Exact where m is linear in x. Elsewhere integrated gradients take, in place of the gradient at x, its mean on the
straight line from x to x + Σ (f'_j − f_j) w_j; their effects add up to the whole effect of that line.

Shapes: B rows, d activation width, n features, w as in sae_core.interventions.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Metric = Callable[[Tensor], Float[Tensor, ""]]
"""Activations [*B, d] to a scalar."""


def gradient(metric: Metric, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B d"]:
    """∂m/∂x at x."""
    with torch.enable_grad():
        x_Bd = x_Bd.detach().clone().requires_grad_()
        (found_Bd,) = torch.autograd.grad(metric(x_Bd), x_Bd)
    return found_Bd


def integrated_gradient(
    metric: Metric, x_Bd: Float[Tensor, "*B d"], change_Bd: Float[Tensor, "*B d"], steps: int
) -> Float[Tensor, "*B d"]:
    """The mean of ∂m/∂x at the midpoints of `steps` equal pieces of the line from x to x + change."""
    total_Bd = torch.zeros_like(x_Bd)
    for step in range(steps):
        total_Bd += gradient(metric, x_Bd + (step + 0.5) / steps * change_Bd)
    return total_Bd / steps


def indirect_effects(
    gradient_Bd: Float[Tensor, "*B d"], change_Bn: Float[Tensor, "*B n"], writes_nd: Float[Tensor, "n d"]
) -> Float[Tensor, "*B n"]:
    """ÎE of each feature in each row; sum over the rows for that of the feature."""
    return (gradient_Bd @ writes_nd.T) * change_Bn
