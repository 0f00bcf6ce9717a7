"""BatchTopK sparse autoencoder (Bussmann et al. 2024, arXiv 2412.06410).

    training:   f = the int(k·B) largest of relu(a) in the batch         inference:   f = a · 1[a > θ]

    loss = ‖x − x̂‖² / ‖x − x̄‖²  +  1/32 · aux        (aux: sae_core.architectures.auxk)

θ is the mean over batches of the smallest value that was kept, weighted towards the last hundred or so:

    m_t = β m_{t−1} + (1 − β) min_t        θ = m_t / (1 − βᵗ)

Without the division, which Adam also makes, θ starts near 0 and the L0 of a short run comes out many times k.

Shapes: B rows, d activation width, n features.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures.auxk import AUX_COEFFICIENT
from sae_core.architectures.base import Loss, SparseAutoencoder, reconstruction_error
from sae_core.architectures.topk import dead_feature_loss, l1, rows_fired, sparse_decode, sparse_encode
from sae_core.dictionary import register
from sae_core.kernels.sparse_codes import Codes, largest_of_the_batch

THRESHOLD_DECAY = 0.99  # β


@register
class BatchTopK(SparseAutoencoder):
    """k features a row on average: a row takes as many as it needs, and at inference does not see its batch."""

    method: ClassVar[str] = "batch_topk"
    compares_features: ClassVar[bool] = True
    threshold_average: Tensor
    threshold_weight: Tensor

    def __init__(self, d_in: int, n_features: int, k: float):
        super().__init__(d_in, n_features)
        if not 0 < k <= n_features:
            raise ValueError(f"{self.method}: k={k} must be positive and at most n_features={n_features}")
        self.k = k
        self.register_buffer("threshold_average", torch.zeros(()))
        self.register_buffer("threshold_weight", torch.zeros(()))
        self._smallest_kept: Tensor | None = None
        self.initialise(torch.Generator().manual_seed(0))

    def config(self) -> dict[str, Any]:
        return {**super().config(), "k": self.k}

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        self.threshold_average.zero_()
        self.threshold_weight.zero_()

    @property
    def threshold(self) -> Float[Tensor, ""]:
        """θ; 0, a plain ReLU, before any training."""
        return self.threshold_average / self.threshold_weight.clamp_min(1e-12)

    def set_threshold(self, threshold: float) -> None:
        """Take θ from elsewhere, such as a file of another library. Raises ValueError for a negative one."""
        if not threshold >= 0:
            raise ValueError(f"{self.method}: threshold={threshold} must not be negative")
        self.threshold_average.fill_(threshold)
        self.threshold_weight.fill_(1.0)

    def encode(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        a_Bn = self.pre_activations(x_Bd)
        return a_Bn * (a_Bn > self.threshold)

    def loss(self, x_Bd: Float[Tensor, "B d"], sparsity: float, dead_n: Bool[Tensor, "n"]) -> Loss:
        codes = sparse_encode(self, x_Bd, largest_of_the_batch(self.k))
        self._smallest_kept = codes.values_M.detach().min() if len(codes.values_M) else None
        xhat_GBd = self._reconstructions(codes, len(x_Bd))
        errors = [reconstruction_error(x_Bd, xhat_Bd) for xhat_Bd in xhat_GBd]
        mse, fvu = errors[-1]
        aux = dead_feature_loss(self, x_Bd, x_Bd - xhat_GBd[-1], dead_n)
        total = sum(fvu for _, fvu in errors) / len(errors) + AUX_COEFFICIENT * aux
        parts = {"mse": mse.detach(), "fvu": fvu.detach(), "l1": l1(codes, len(x_Bd)), "aux": aux.detach()}
        return Loss(total, parts, rows_fired(codes, self.n_features))

    def _reconstructions(self, codes: Codes, n_rows: int) -> list[Tensor]:
        """What the loss compares with x, each [B, d] and weighing the same; the last from all features."""
        return [sparse_decode(codes, n_rows, self.W_dec_nd) + self.b_dec_d]

    def constrain_parameters(self) -> None:
        super().constrain_parameters()
        if self._smallest_kept is not None:
            self.threshold_average.lerp_(self._smallest_kept, 1 - THRESHOLD_DECAY)
            self.threshold_weight.lerp_(torch.ones_like(self.threshold_weight), 1 - THRESHOLD_DECAY)
            self._smallest_kept = None

    def _to_raw_units(self, mean_d: Tensor, scale: float) -> None:
        super()._to_raw_units(mean_d, scale)
        self.threshold_average *= scale
