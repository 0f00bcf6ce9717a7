"""Which features are active together.

    N_ij = number of rows with f_i ≠ 0 and f_j ≠ 0;   N_ii = rows on which i is active;   N = all rows
    Jaccard_ij = N_ij / (N_ii + N_jj − N_ij)
    φ_ij = (N N_ij − N_ii N_jj) / √( N_ii (N − N_ii) N_jj (N − N_jj) ),  the correlation of "active" with "active"

Shapes: B rows, n features.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
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
        return jaccard(self.counts_nn, active_n[:, None], active_n)

    def phi(self) -> Float[Tensor, "n n"]:
        """Correlation of the two activities in [−1, 1], float64; NaN for a feature that is active on no or every
        row."""
        active_n = self.counts_nn.diagonal()
        return phi(self.counts_nn, active_n[:, None], active_n, self.rows)


def jaccard(both: Tensor, active: Tensor, other_active: Tensor) -> Tensor:
    """Of numbers of rows, all of one shape."""
    return both / (active + other_active - both)


def phi(both: Tensor, active: Tensor, other_active: Tensor, rows: int) -> Tensor:
    """Of numbers of rows out of `rows`, all of one shape."""
    deviations = (active * (rows - active)).sqrt() * (other_active * (rows - other_active)).sqrt()
    return (rows * both - active * other_active) / deviations


class Partners(NamedTuple):
    """The features that some features are most often active with, by Jaccard, the first most; of those that never are
    active with k others, the last ones have 0 rows together."""

    feature: Int[Tensor, "b k"]
    both: Float[Tensor, "b k"]
    jaccard: Float[Tensor, "b k"]
    phi: Float[Tensor, "b k"]


def partners(counts_bn: Float[Tensor, "b n"], first: int, active_n: Float[Tensor, "n"], rows: int, k: int) -> Partners:
    """Of the features from `first` on, given on how many of `rows` rows they are active with each other one."""
    active_b1 = active_n[first : first + len(counts_bn), None]
    counts_bn = counts_bn.clone()
    counts_bn[range(len(counts_bn)), range(first, first + len(counts_bn))] = 0  # with itself
    top = jaccard(counts_bn, active_b1, active_n).nan_to_num(0).topk(min(k, len(active_n)), dim=1)
    both = counts_bn.gather(1, top.indices)
    return Partners(top.indices, both, top.values, phi(both, active_b1, active_n[top.indices], rows))
