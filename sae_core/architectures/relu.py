"""Sparse autoencoder with a ReLU and the norm-weighted L1 penalty (Bricken et al. 2023; Conerly et al. 2024, "Update
on how we train SAEs").

    f = relu(W_enc (x − b_dec) + b_enc)        x̂ = f W_dec + b_dec

    loss = mean over rows of  ‖x̂ − x‖²  +  λ · Σ_i f_i ‖W_dec_i‖

Decoder rows are free: weighing a code with its row's norm leaves nothing to gain from long rows and small codes. The
squared error is summed over dimensions, so λ is that of SAELens at the same scale of activations.

Shapes: B rows, d activation width, n features.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures.base import Loss, SparseAutoencoder, reconstruction_error
from sae_core.dictionary import register


@register
class ReLU(SparseAutoencoder):
    """`l1_coefficient` is λ."""

    method: ClassVar[str] = "relu"

    def __init__(self, d_in: int, n_features: int, l1_coefficient: float):
        super().__init__(d_in, n_features)
        if not l1_coefficient >= 0:
            raise ValueError(f"{self.method}: l1_coefficient={l1_coefficient} must not be negative")
        self.l1_coefficient = l1_coefficient
        self.initialise(torch.Generator().manual_seed(0))

    def config(self) -> dict[str, Any]:
        return {**super().config(), "l1_coefficient": self.l1_coefficient}

    def encode(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        return self.pre_activations(x_Bd).relu()

    def loss(self, x_Bd: Float[Tensor, "B d"], sparsity: float, dead_n: Bool[Tensor, "n"]) -> Loss:
        f_Bn = self.encode(x_Bd)
        mse, fvu = reconstruction_error(x_Bd, self.decode(f_Bn))
        sum_n = f_Bn.sum(0, dtype=x_Bd.dtype) / len(x_Bd)
        l1 = (sum_n * self.W_dec_nd.norm(dim=1)).sum()  # no product of matrices, which autocast would round
        parts = {"mse": mse.detach(), "fvu": fvu.detach(), "l1": l1.detach()}
        fired_n = (f_Bn.detach() > 0).sum(0, dtype=x_Bd.dtype)
        return Loss(self.d_in * mse + sparsity * self.l1_coefficient * l1, parts, fired_n)

    def constrain_gradients(self) -> None:
        """Decoder rows are free."""

    def constrain_parameters(self) -> None:
        """Decoder rows are free."""
