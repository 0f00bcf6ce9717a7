"""Principal components (centred): the linear baseline.

    C = Σ (x − x̄)(x − x̄)ᵀ = V Λ Vᵀ, Λ descending        c = V ᵀ(x − x̄), signed

With all d components the reconstruction is exact; `k` keeps the k largest |c| of each row, which for an
orthonormal basis is the best choice of k coefficients.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from sae_core.baselines.basis import Basis
from sae_core.dictionary import register
from sae_core.moments import RowMoments


@register
class PCA(Basis):
    """All d principal components, in descending order of variance."""

    method: ClassVar[str] = "pca"


def fit_pca(batches: Iterator[Tensor], k: int | None = None) -> PCA:
    """PCA of rows [B, d] in one pass, the covariance summed in float64."""
    moments = RowMoments.of(batches, full=True)
    _, vectors_dn = torch.linalg.eigh(moments.scatter)
    directions_nd = vectors_dn.flip(1).T
    # An eigenvector's sign is LAPACK's whim: the largest entry is made positive.
    largest_n1 = directions_nd.abs().argmax(1, keepdim=True)
    directions_nd = directions_nd * directions_nd.gather(1, largest_n1).sign()
    d_in = len(moments.mean_d)
    pca = PCA(d_in, d_in, rectify=False, k=k)
    pca.directions_nd.copy_(directions_nd)
    pca.center_d.copy_(moments.mean_d)
    return pca
