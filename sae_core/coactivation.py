"""Which features are active together.

    N_ij = number of rows with f_i ≠ 0 and f_j ≠ 0;   N_ii = rows on which i is active;   N = all rows
    Jaccard_ij = N_ij / (N_ii + N_jj − N_ij)
    φ_ij = (N N_ij − N_ii N_jj) / √( N_ii (N − N_ii) N_jj (N − N_jj) ),  the correlation of "active" with "active"

Shapes: B rows, n features.
"""

import torch
from jaxtyping import Float
from torch import Tensor

MOST_FEATURES = 16_384


class Coactivation:
    """Streams codes into counts of pairs [n, n], integers in float64: 8·n² bytes, and 4·n² more during an update.

    Raises ValueError above MOST_FEATURES features, where that is 3 GiB.
    """

    def __init__(self, n_features: int):
        if n_features > MOST_FEATURES:
            raise ValueError(
                f"co-activation of {n_features} features needs {12 * n_features**2 / 2**30:.0f} GiB; at most "
                f"{MOST_FEATURES} are counted. Give it a subset of the codes' columns"
            )
        self.rows = 0
        self.counts_nn: Float[Tensor, "n n"] = torch.zeros(n_features, n_features, dtype=torch.float64)

    @torch.no_grad()
    def update(self, f_Bn: Float[Tensor, "B n"]) -> None:
        """Take in the codes of a batch."""
        if f_Bn.ndim != 2 or f_Bn.shape[1] != len(self.counts_nn):
            raise ValueError(f"codes {list(f_Bn.shape)} are not of {len(self.counts_nn)} features")
        active_Bn = (f_Bn != 0).float()
        self.counts_nn += (active_Bn.T @ active_Bn).cpu()  # exact in float32 up to 2²⁴ rows a batch
        self.rows += len(f_Bn)

    def jaccard(self) -> Float[Tensor, "n n"]:
        """Rows with both active over rows with either, float64; NaN for two features that are never active."""
        active_n = self.counts_nn.diagonal()
        return self.counts_nn / (active_n[:, None] + active_n - self.counts_nn)

    def phi(self) -> Float[Tensor, "n n"]:
        """Correlation of the two activities in [−1, 1], float64; NaN for a feature that is active on no or every
        row."""
        active_n = self.counts_nn.diagonal()
        deviation_n = (active_n * (self.rows - active_n)).sqrt()
        covariance_nn = self.rows * self.counts_nn - torch.outer(active_n, active_n)
        return covariance_nn / torch.outer(deviation_n, deviation_n)
