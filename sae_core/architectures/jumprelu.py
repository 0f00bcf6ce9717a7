"""JumpReLU sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2407.14435) and its tanh penalty (Anthropic 2025,
"Circuit Tracing").

    π = relu(W_enc (x − b_dec) + b_enc)        f = π · 1[π > θ]        x̂ = f W_dec + b_dec

    loss = ‖x − x̂‖² / ‖x − x̄‖²  +  λ · penalty

    penalty "l0":     mean over rows of L0 = Σ 1[π > θ]       λ is the share of the variance that a feature must explain
                                                             in a row to be worth its place
    penalty "tanh":   mean over rows of Σ tanh(4 f)          its gradient reaches the encoder and not only θ
    target_l0 = L*:   (mean L0 / L* − 1)²                    in place of either, with λ = coefficient

Steps have no derivative, so kernel estimates K(u) = 1[|u| < ½] of width ε stand in:

    ∂f/∂θ = −(θ/ε) K((π−θ)/ε)        ∂L0/∂θ = −(1/ε) K((π−θ)/ε)        ∂f/∂π = 1[π > θ]        ∂L0/∂π = 0

Shapes: B rows, d activation width, n features.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_core.architectures.base import Loss, SparseAutoencoder, reconstruction_error
from sae_core.dictionary import register

TANH_SLOPE = 4.0


@register
class JumpReLU(SparseAutoencoder):
    """`coefficient` is λ and `bandwidth` ε, in units of the pre-activations."""

    method: ClassVar[str] = "jumprelu"

    def __init__(
        self,
        d_in: int,
        n_features: int,
        coefficient: float,
        penalty: Literal["l0", "tanh"] = "l0",
        target_l0: float | None = None,
        bandwidth: float = 0.1,
    ):
        super().__init__(d_in, n_features)
        if not coefficient >= 0 or not bandwidth > 0:
            raise ValueError(
                f"{self.method}: coefficient={coefficient} must not be negative, bandwidth={bandwidth} positive"
            )
        if penalty not in ("l0", "tanh"):
            raise ValueError(f"{self.method}: penalty={penalty!r} does not exist; choose l0 or tanh")
        if target_l0 is not None and not 0 < target_l0 <= n_features:
            raise ValueError(f"{self.method}: target_l0={target_l0} must be positive and at most {n_features} features")
        self.coefficient = coefficient
        self.penalty: Literal["l0", "tanh"] = penalty
        self.target_l0 = target_l0
        self.bandwidth = bandwidth
        self.threshold_n = nn.Parameter(torch.empty(n_features))
        self.initialise(torch.Generator().manual_seed(0))

    def config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("coefficient", "penalty", "target_l0", "bandwidth")}
        return {**super().config(), **own}

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        with torch.no_grad():
            self.threshold_n.fill_(self.bandwidth / 2)

    def encode(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        pi_Bn = self.pre_activations(x_Bd).relu()
        return pi_Bn * (pi_Bn > self.threshold_n)

    def loss(self, x_Bd: Float[Tensor, "B d"], sparsity: float, dead_n: Bool[Tensor, "n"]) -> Loss:
        pi_Bn = self.pre_activations(x_Bd).relu()
        f_Bn, fired_n = jump_relu(pi_Bn, self.threshold_n, self.bandwidth)
        mse, fvu = reconstruction_error(x_Bd, self.decode(f_Bn))
        l0 = fired_n.sum() / len(x_Bd)
        if self.target_l0 is not None:
            penalty = (l0 / self.target_l0 - 1).square()
        elif self.penalty == "l0":
            penalty = l0
        else:
            penalty = (TANH_SLOPE * f_Bn).tanh().sum(dtype=x_Bd.dtype) / len(x_Bd)
        l1 = f_Bn.detach().sum(dtype=x_Bd.dtype) / len(x_Bd)
        parts = {"mse": mse.detach(), "fvu": fvu.detach(), "l1": l1, "penalty": penalty.detach()}
        return Loss(fvu + sparsity * self.coefficient * penalty, parts, fired_n.detach())

    @torch.no_grad()
    def resample(self, dead_D: Int[Tensor, "D"], x_Bd: Float[Tensor, "B d"], generator: torch.Generator) -> None:
        super().resample(dead_D, x_Bd, generator)
        self.threshold_n[dead_D] = self.bandwidth / 2

    def constrain_parameters(self) -> None:
        super().constrain_parameters()
        with torch.no_grad():
            self.threshold_n.clamp_min_(0)

    def _scale_codes(self, by_n: Tensor) -> None:
        super()._scale_codes(by_n)
        self.threshold_n *= by_n

    def _to_raw_units(self, mean_d: Tensor, scale: float) -> None:
        super()._to_raw_units(mean_d, scale)
        self.threshold_n *= scale
        self.bandwidth *= scale


def jump_relu(pi_Bn: Tensor, threshold_n: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """f = π·1[π > θ] and on how many rows each feature fires [n], with the estimators above as gradients."""
    return _JumpReLU.apply(pi_Bn, threshold_n, bandwidth)  # pyright: ignore[reportReturnType]


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pi_Bn: Tensor, threshold_n: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        fires_Bn = pi_Bn > threshold_n
        ctx.save_for_backward(pi_Bn, threshold_n)
        ctx.bandwidth = bandwidth
        return pi_Bn * fires_Bn, fires_Bn.sum(0, dtype=threshold_n.dtype)

    @staticmethod
    def backward(ctx: Any, grad_f_Bn: Tensor, grad_fired_n: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pi_Bn, threshold_n = ctx.saved_tensors
        near_Bn = (pi_Bn - threshold_n).abs() < ctx.bandwidth / 2
        by_f_n = (grad_f_Bn * near_Bn).sum(0, dtype=threshold_n.dtype) * threshold_n
        by_l0_n = grad_fired_n * near_Bn.sum(0, dtype=threshold_n.dtype)
        return grad_f_Bn * (pi_Bn > threshold_n), -(by_f_n + by_l0_n) / ctx.bandwidth, None
