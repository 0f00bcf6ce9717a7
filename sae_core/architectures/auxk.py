"""AuxK, which revives dead features (Gao et al. 2024, arXiv 2406.04093, §2.4 and A.2).

    aux = min(|D| / k_aux, 1) · ‖e − ê‖² / ‖e‖²,     e = x − x̂ (no gradient),  k_aux = d/2

The k_aux largest pre-activations among the dead set D rebuild what the live features missed. They are taken raw,
before the ReLU: most are negative, and a rectified zero has no gradient.

Shapes: B rows, d activation width, n features, D dead features.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

AUX_COEFFICIENT = 1 / 32
SMALLEST_ERROR = 1e-20


def aux_loss(
    centred_Bd: Float[Tensor, "B d"],
    e_Bd: Float[Tensor, "B d_out"],
    W_enc_nd: Float[Tensor, "n d"],
    b_enc_n: Float[Tensor, "n"],
    W_dec_nd: Float[Tensor, "n d_out"],
    dead_D: Int[Tensor, "D"],
) -> Float[Tensor, ""]:
    """How much of the error `e_Bd` the dead features leave; 0 where none is dead."""
    if len(dead_D) == 0:
        return e_Bd.new_zeros(())
    k_aux = max(e_Bd.shape[1] // 2, 1)
    # index_select: its backward adds in a fixed order, as indexing's does not have to.
    W_enc_Dd, W_dec_Dd = W_enc_nd.index_select(0, dead_D), W_dec_nd.index_select(0, dead_D)
    z_BD = F.linear(centred_Bd, W_enc_Dd, b_enc_n.index_select(0, dead_D))
    if len(dead_D) > k_aux:
        values_Bk, indices_Bk = z_BD.topk(k_aux, dim=1, sorted=False)
        z_BD = torch.zeros_like(z_BD).scatter(1, indices_Bk, values_Bk)
    # An error of exactly 0 leaves nothing to explain, and no quotient.
    unexplained = (e_Bd - z_BD @ W_dec_Dd).square().mean() / e_Bd.square().mean().clamp_min(SMALLEST_ERROR)
    return min(len(dead_D) / k_aux, 1.0) * unexplained
