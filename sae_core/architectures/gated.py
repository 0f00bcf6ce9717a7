"""Gated sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2404.16014, eq. 6–10).

    u = W_enc (x − b_dec)        gate = u + b_enc        f = 1[gate > 0] · relu(exp(r_mag) u + b_mag)
    x̂ = f W_dec + b_dec

    loss = mean over rows of  ‖x̂ − x‖²  +  λ · Σ relu(gate)  +  ‖x − (relu(gate) W_dec + b_dec)‖²

Whether a feature is there and how strong it is are read separately, so the L1 penalty on the gate does not shrink the
codes. In the third term the decoder's W_dec and b_dec are constants: it trains the encoder, whose
gate the step function leaves without a gradient. The squared errors are summed over dimensions.

Shapes: B rows, d activation width, n features.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_core.architectures.base import Loss, SparseAutoencoder, reconstruction_error
from sae_core.dictionary import register


@register
class Gated(SparseAutoencoder):
    """`l1_coefficient` is λ; `b_enc_n` is the gate's bias."""

    method: ClassVar[str] = "gated"

    def __init__(self, d_in: int, n_features: int, l1_coefficient: float):
        super().__init__(d_in, n_features)
        if not l1_coefficient >= 0:
            raise ValueError(f"{self.method}: l1_coefficient={l1_coefficient} must not be negative")
        self.l1_coefficient = l1_coefficient
        self.r_mag_n = nn.Parameter(torch.empty(n_features))
        self.b_mag_n = nn.Parameter(torch.empty(n_features))
        self.initialise(torch.Generator().manual_seed(0))

    def config(self) -> dict[str, Any]:
        return {**super().config(), "l1_coefficient": self.l1_coefficient}

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        with torch.no_grad():
            self.r_mag_n.zero_()
            self.b_mag_n.zero_()

    def encode(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        return self._codes(self.pre_activations(x_Bd))

    def _codes(self, gate_Bn: Tensor) -> Tensor:
        magnitude_Bn = self.r_mag_n.exp() * (gate_Bn - self.b_enc_n) + self.b_mag_n
        return (gate_Bn > 0) * magnitude_Bn.relu()

    def loss(self, x_Bd: Float[Tensor, "B d"], sparsity: float, dead_n: Bool[Tensor, "n"]) -> Loss:
        gate_Bn = self.pre_activations(x_Bd)
        f_Bn = self._codes(gate_Bn)
        mse, fvu = reconstruction_error(x_Bd, self.decode(f_Bn))
        open_Bn = gate_Bn.relu()
        l1 = open_Bn.sum(dtype=x_Bd.dtype) / len(x_Bd)
        by_gate_Bd = open_Bn @ self.W_dec_nd.detach() + self.b_dec_d.detach()
        gate_mse = (by_gate_Bd - x_Bd).square().mean()
        total = self.d_in * (mse + gate_mse) + sparsity * self.l1_coefficient * l1
        parts = {"mse": mse.detach(), "fvu": fvu.detach(), "l1": l1.detach(), "gate_mse": gate_mse.detach()}
        return Loss(total, parts, (f_Bn.detach() > 0).sum(0, dtype=x_Bd.dtype))

    @torch.no_grad()
    def resample(self, dead_D: Int[Tensor, "D"], x_Bd: Float[Tensor, "B d"], generator: torch.Generator) -> None:
        super().resample(dead_D, x_Bd, generator)
        self.r_mag_n[dead_D] = 0
        self.b_mag_n[dead_D] = 0

    def _scale_codes(self, by_n: Tensor) -> None:
        super()._scale_codes(by_n)
        self.b_mag_n *= by_n

    def _to_raw_units(self, mean_d: Tensor, scale: float) -> None:
        super()._to_raw_units(mean_d, scale)
        self.b_mag_n *= scale
