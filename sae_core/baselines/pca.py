"""Principal components: the linear baseline.

    C = Σ (x − m)(x − m)ᵀ = V Λ Vᵀ, Λ descending        m = x̄ when centred, else 0
    signed:     c = Vᵀ(x − m)                            d features
    rectified:  c = relu([Vᵀ; −Vᵀ](x − m))               2d features, each component once with either sign

With all features the reconstruction is exact, signed or rectified; `k` keeps the k largest |c| of each row,
which for an orthonormal basis is the best choice of k coefficients, and the same one in both forms.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from sae_core.baselines.basis import Basis, positive_largest_entry
from sae_core.dictionary import register
from sae_core.moments import RowMoments


@register
class PCA(Basis):
    """All d principal components in descending order of variance; rectified, all d with their other sign after
    them."""

    method: ClassVar[str] = "pca"


def fit_pca(batches: Iterator[Tensor], k: int | None = None, *, centred: bool = True, rectify: bool = False) -> PCA:
    """PCA of rows [B, d] in one pass, the covariance summed in float64.

    Raises ValueError when there are no rows, a value is not finite, or k exceeds the number of features.
    """
    moments = RowMoments.of(batches, full=True)
    d_in = len(moments.mean_d)
    pca = PCA(d_in, 2 * d_in if rectify else d_in, rectify=rectify, k=k)
    scatter_dd = moments.scatter
    if centred:
        pca.center_d.copy_(moments.mean_d)
    else:
        scatter_dd = scatter_dd + moments.rows * torch.outer(moments.mean_d, moments.mean_d)
    _, vectors_dn = torch.linalg.eigh(scatter_dd)
    directions_nd = vectors_dn.flip(1).T
    directions_nd = directions_nd * positive_largest_entry(directions_nd)
    pca.directions_nd.copy_(torch.cat([directions_nd, -directions_nd]) if rectify else directions_nd)
    return pca
