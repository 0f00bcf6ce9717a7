"""A fixed basis as a dictionary: what every baseline that is not learned by gradient descent shares.

    c = (x − center) Dᵀ        optionally relu(c); optionally only the k largest |c| of a row
    x̂ = gain · c D + center

Shapes: B rows, d activation width, n features; D is [n, d] with unit rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sae_core.dictionary import Dictionary


class Basis(Dictionary):
    """Unit directions, a centre and a gain; `rectify` is the ReLU, `k` keeps the k largest |c| of a row."""

    directions_nd: Tensor
    center_d: Tensor
    gain: Tensor

    def __init__(self, d_in: int, n_features: int, rectify: bool, k: int | None = None):
        super().__init__(d_in, n_features)
        if k is not None and not 1 <= k <= n_features:
            raise ValueError(f"{self.method}: k={k} must lie between 1 and n_features={n_features}")
        self.rectify = rectify
        self.k = k
        self.register_buffer("directions_nd", torch.zeros(n_features, d_in))
        self.register_buffer("center_d", torch.zeros(d_in))
        self.register_buffer("gain", torch.ones(()))

    def config(self) -> dict[str, Any]:
        return {"d_in": self.d_in, "n_features": self.n_features, "rectify": self.rectify, "k": self.k}

    @property
    def directions(self) -> Float[Tensor, "n d"]:
        return self.directions_nd

    def encode(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        self.check_rows(x_Bd)
        c_Bn = self._coefficients(x_Bd - self.center_d)
        if self.rectify:
            c_Bn = c_Bn.relu()
        if self.k is not None:
            largest_Bk = c_Bn.abs().topk(self.k, dim=-1, sorted=False).indices
            c_Bn = torch.zeros_like(c_Bn).scatter(-1, largest_Bk, c_Bn.gather(-1, largest_Bk))
        return c_Bn

    def _coefficients(self, centred_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        """Codes before the ReLU and the choice of k. Must be homogeneous, c(s·x) = s·c(x) for s > 0: on that
        rests the folding of a normalization."""
        return F.linear(centred_Bd, self.directions_nd)

    def decode(self, f_Bn: Float[Tensor, "*B n"]) -> Float[Tensor, "*B d"]:
        return self.gain * (f_Bn @ self.directions_nd) + self.center_d

    def _to_raw_units(self, mean_d: Tensor, scale: float) -> None:
        self.center_d.mul_(scale).add_(mean_d)


def positive_largest_entry(vectors_nd: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
    """The sign ±1 of each row's entry of largest magnitude: multiplied with it, a direction that is defined up
    to its sign no longer depends on LAPACK's whim."""
    return vectors_nd.gather(1, vectors_nd.abs().argmax(1, keepdim=True)).sign()
