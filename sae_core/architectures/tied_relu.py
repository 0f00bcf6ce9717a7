"""The paper's tied sparse autoencoder (Cunningham et al. 2023, arXiv 2309.08600, eq. 1–4).

    U = W / ‖W_row‖        c = relu(U (x − center) + b)        x̂ = Uᵀ c + center

    loss = mean over rows and dimensions of (x̂ − x)²  +  α · mean over rows of Σ|c|

Rows are normalised inside the forward pass, so the gradient sees it. The α here is that of the authors' code;
eq. 4 of the paper sums over dimensions instead of averaging, so α_eq4 = d·α. A feature active alone comes out
α·d/2 too small. There is no learned decoder bias: `center` stays 0 in training and holds the mean once a
normalization is folded in.

Shapes: B rows, d activation width, n features.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_core.architectures.base import Loss, TrainableDictionary, badly_rebuilt, reconstruction_error
from sae_core.dictionary import register


@register
class TiedReLU(TrainableDictionary):
    """Encoder and decoder share unit rows. `alpha` weighs the L1 penalty; 0 is the non-sparse control."""

    method: ClassVar[str] = "tied_relu"
    center_d: Tensor

    def __init__(self, d_in: int, n_features: int, alpha: float):
        super().__init__(d_in, n_features)
        if not alpha >= 0:
            raise ValueError(f"tied_relu: alpha={alpha} must not be negative")
        self.alpha = alpha
        self.W_nd = nn.Parameter(torch.empty(n_features, d_in))
        self.b_n = nn.Parameter(torch.empty(n_features))
        self.register_buffer("center_d", torch.zeros(d_in))
        self.initialise(torch.Generator().manual_seed(0))

    def config(self) -> dict[str, Any]:
        return {"d_in": self.d_in, "n_features": self.n_features, "alpha": self.alpha}

    def initialise(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            nn.init.xavier_uniform_(self.W_nd, generator=generator)
            self.b_n.zero_()

    @property
    def directions(self) -> Float[Tensor, "n d"]:
        return F.normalize(self.W_nd, dim=1, eps=1e-8)

    def encode(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        self.check_rows(x_Bd)
        return F.linear(x_Bd - self.center_d, self.directions, self.b_n).relu()

    def decode(self, f_Bn: Float[Tensor, "*B n"]) -> Float[Tensor, "*B d"]:
        return f_Bn @ self.directions + self.center_d

    @torch.no_grad()
    def resample(self, dead_D: Int[Tensor, "D"], x_Bd: Float[Tensor, "B d"], generator: torch.Generator) -> None:
        rows_D = badly_rebuilt(x_Bd, self(x_Bd), len(dead_D), generator)
        # Only a row's direction counts; a longer one would turn more slowly than the others.
        self.W_nd[dead_D] = F.normalize(x_Bd[rows_D] - self.center_d, dim=1) * self.W_nd.norm(dim=1).mean()
        self.b_n[dead_D] = 0

    def loss(self, x_Bd: Float[Tensor, "B d"], sparsity: float, dead_n: Bool[Tensor, "n"]) -> Loss:
        self.check_rows(x_Bd)
        U_nd = self.directions  # once, for the encoder and the decoder
        c_Bn = F.linear(x_Bd - self.center_d, U_nd, self.b_n).relu()
        mse, fvu = reconstruction_error(x_Bd, c_Bn @ U_nd + self.center_d)
        l1 = c_Bn.sum(1, dtype=x_Bd.dtype).mean()  # c ≥ 0
        parts = {"mse": mse.detach(), "fvu": fvu.detach(), "l1": l1.detach()}
        return Loss(mse + sparsity * self.alpha * l1, parts, (c_Bn.detach() > 0).sum(0, dtype=x_Bd.dtype))

    def _to_raw_units(self, mean_d: Tensor, scale: float) -> None:
        self.b_n *= scale
        self.center_d.mul_(scale).add_(mean_d)
