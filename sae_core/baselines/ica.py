"""Independent components (Hyvärinen 1999): directions along which the activations are least Gaussian.

    z = (x − x̄) / σ                     each dimension standardised
    s = W K z                           K whitens, W rotates so that E[log cosh s] is extremal (FastICA)
    x = x̄ + Σ_j s_j A_j                 A_j the mixing vectors, columns of the inverse of W K diag(1/σ)

    signed:     c_j = ‖A_j‖ s_j         x̂ = x̄ + Σ_j c_j A_j / ‖A_j‖
    rectified:  c = relu([c; −c])       2n features, each component once with either sign

A feature *reads* with its unmixing row and *writes* its mixing vector; the two differ, since sources that are
independent need not be orthogonal. With all features the reconstruction is exact. The paper's code instead takes
the unmixing rows for both, normalised (raw for ± top-k, on x that is not standardised): it rebuilds no x.

Shapes: B rows, d activation width, r the rank of the activations, n features: r of them, or 2r rectified.
"""

import warnings
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sae_core.baselines.basis import Basis, positive_largest_entry
from sae_core.dictionary import register
from sae_core.moments import RowMoments

MAX_ITERATIONS = 200

SMALLEST_VARIANCE = 1e-12
"""Of the largest variance of the standardised rows: below lies rounding, and no component."""

MOST_ROWS = 16_384
"""FastICA wants its rows all at once, in float64: at d = 576 they are 75 MB, and 200 iterations two minutes of a core.

Enough for sparse sources (of 576 that are active on 5 % of the rows, all are found); too few for 576 Laplacian ones, of
which 32,768 find none either.
"""


@register
class ICA(Basis):
    """Independent components, in descending order of the variance that each contributes."""

    method: ClassVar[str] = "ica"
    readers_nd: Tensor

    def __init__(self, d_in: int, n_features: int, rectify: bool, k: int | None = None):
        super().__init__(d_in, n_features, rectify, k)
        self.register_buffer("readers_nd", torch.zeros(n_features, d_in))

    def _coefficients(self, centred_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        return F.linear(centred_Bd, self.readers_nd)


def fit_ica(batches: Iterator[Tensor], seed: int, k: int | None = None, *, rectify: bool = False) -> ICA:
    """ICA of the first MOST_ROWS rows [B, d] of a stream, which must come in random order; no more are drawn.

    There are as many components as the rows have dimensions with variance. Where FastICA does not converge, a
    `ConvergenceWarning` says so and the components are those of its last iteration: independent ones only in part,
    a basis all the same.

    Raises ValueError when there are no more rows than dimensions, a value is not finite, all rows are the same, or
    k exceeds the number of features.
    """
    parts = list(_first(batches))
    moments = RowMoments.of(iter(parts))
    x_Bd = torch.cat(parts)
    d_in = x_Bd.shape[1]
    if len(x_Bd) <= d_in:
        raise ValueError(
            f"ICA of width {d_in} needs more rows than that, and got {len(x_Bd)}: its components would be "
            "the rows' own noise. Give it more activations"
        )
    std_d = (moments.scatter / moments.rows).sqrt()
    sigma_d = torch.where(std_d > 0, std_d, 1)  # a constant dimension stays as it is, at 0
    z_Bd = (x_Bd.double() - moments.mean_d) / sigma_d

    variance_r, vectors_dr = torch.linalg.eigh(z_Bd.T @ z_Bd / len(z_Bd))
    kept_r = variance_r > SMALLEST_VARIANCE * variance_r[-1]
    if not kept_r.any():
        raise ValueError(f"all {len(x_Bd)} rows are the same: they have no components")
    std_r, vectors_dr = variance_r[kept_r].sqrt(), vectors_dr[:, kept_r]
    rotation_rr = torch.from_numpy(_rotation((z_Bd @ (vectors_dr / std_r)).numpy(), seed))

    unmixing_rd = rotation_rr @ (vectors_dr / std_r).T / sigma_d
    mixing_rd = rotation_rr @ (vectors_dr * std_r).T * sigma_d  # W is orthogonal: its inverse is its transpose
    size_r1 = mixing_rd.norm(dim=1, keepdim=True)  # the standard deviation of the code: sources have variance 1
    order_r = size_r1[:, 0].argsort(descending=True)
    directions_rd, readers_rd = (mixing_rd / size_r1)[order_r], (unmixing_rd * size_r1)[order_r]
    sign_r1 = positive_largest_entry(directions_rd)
    directions_rd, readers_rd = directions_rd * sign_r1, readers_rd * sign_r1
    if rectify:
        directions_rd, readers_rd = (torch.cat([rows, -rows]) for rows in (directions_rd, readers_rd))

    ica = ICA(d_in, len(directions_rd), rectify=rectify, k=k)
    ica.directions_nd.copy_(directions_rd)
    ica.readers_nd.copy_(readers_rd)
    ica.center_d.copy_(moments.mean_d)
    return ica


def _first(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The first MOST_ROWS rows of a stream."""
    rows = 0
    for x_Bd in batches:
        yield x_Bd[: MOST_ROWS - rows]
        rows += len(x_Bd)
        if rows >= MOST_ROWS:
            return


def _rotation(white_Br: np.ndarray, seed: int) -> np.ndarray:
    """FastICA's orthogonal W [r, r] for white rows."""
    from sklearn.decomposition import FastICA  # seconds, for those who fit one
    from sklearn.exceptions import ConvergenceWarning

    fast_ica = FastICA(whiten=False, max_iter=MAX_ITERATIONS, random_state=seed)  # pyright: ignore[reportArgumentType]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        fast_ica.fit(white_Br)
    if caught:
        warnings.warn(
            f"ICA did not converge in {MAX_ITERATIONS} iterations on {len(white_Br)} rows: its components are those "
            "of the last iteration, and are independent only in part",
            ConvergenceWarning,
            stacklevel=3,
        )
    return fast_ica.components_
