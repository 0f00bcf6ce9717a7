"""TopK sparse autoencoder (Gao et al. 2024, arXiv 2406.04093, eq. 1–2, §2.4 and A.2).

    a = W_enc (x − b_dec) + b_enc        f = relu(topk(a, k))        x̂ = f W_dec + b_dec

    loss = ‖x − x̂‖² / ‖x − x̄‖²  +  1/32 · min(|D| / k_aux, 1) · ‖e − ê‖² / ‖e‖²,     e = x − x̂ (no gradient)

The second term, AuxK, revives dead features: the k_aux = d/2 largest pre-activations among the dead set D
rebuild what the live ones missed. They are taken raw, before the ReLU: most are negative, and a rectified
zero has no gradient. Rows of W_dec have unit norm: the gradient along them is removed and they are
renormalised after each step.

Shapes: B rows, d activation width, n features, k active features a row, D dead features.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_core.architectures.base import Loss, TrainableDictionary, reconstruction_error
from sae_core.dictionary import register
from sae_core.kernels.sparse_codes import decode_sparse, decode_sparse_plain, encode_topk, encode_topk_plain

AUX_COEFFICIENT = 1 / 32


@register
class TopK(TrainableDictionary):
    """The k largest pre-activations of a row are kept, and those of them that are positive are its codes."""

    method: ClassVar[str] = "topk"

    def __init__(self, d_in: int, n_features: int, k: int):
        super().__init__(d_in, n_features)
        if not 1 <= k <= n_features:
            raise ValueError(f"topk: k={k} must lie between 1 and n_features={n_features}")
        self.k = k
        self.W_enc_nd = nn.Parameter(torch.empty(n_features, d_in))
        self.b_enc_n = nn.Parameter(torch.empty(n_features))
        self.W_dec_nd = nn.Parameter(torch.empty(n_features, d_in))
        self.b_dec_d = nn.Parameter(torch.empty(d_in))
        self.initialise(torch.Generator().manual_seed(0))

    def config(self) -> dict[str, Any]:
        return {"d_in": self.d_in, "n_features": self.n_features, "k": self.k}

    def initialise(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.W_dec_nd.normal_(generator=generator)
            self.constrain_parameters()
            self.W_enc_nd.copy_(self.W_dec_nd)
            self.b_enc_n.zero_()
            self.b_dec_d.zero_()

    @property
    def directions(self) -> Float[Tensor, "n d"]:
        return F.normalize(self.W_dec_nd, dim=1)

    def encode(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        self.check_rows(x_Bd)
        a_Bn = F.linear(x_Bd - self.b_dec_d, self.W_enc_nd, self.b_enc_n)
        values_Bk, indices_Bk = a_Bn.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(a_Bn).scatter(-1, indices_Bk, values_Bk.relu())

    def decode(self, f_Bn: Float[Tensor, "*B n"]) -> Float[Tensor, "*B d"]:
        return f_Bn @ self.W_dec_nd + self.b_dec_d

    def loss(self, x_Bd: Float[Tensor, "B d"], sparsity: float, dead_n: Bool[Tensor, "n"]) -> Loss:
        self.check_rows(x_Bd)
        on_cpu = x_Bd.device.type == "cpu"
        encode, decode = (encode_topk, decode_sparse) if on_cpu else (encode_topk_plain, decode_sparse_plain)
        values_Bk, indices_Bk = encode(x_Bd, self.W_enc_nd, self.b_enc_n, self.b_dec_d, self.k)
        xhat_Bd = decode(values_Bk, indices_Bk, self.W_dec_nd) + self.b_dec_d
        mse, fvu = reconstruction_error(x_Bd, xhat_Bd)
        aux = self._aux_loss(x_Bd, (x_Bd - xhat_Bd).detach(), dead_n.nonzero().squeeze(1))

        active_Bk = (values_Bk.detach() > 0).to(x_Bd.dtype)
        fired_n = torch.zeros_like(self.b_enc_n).index_add_(0, indices_Bk.flatten(), active_Bk.flatten())
        l1 = values_Bk.detach().sum(1).mean()
        parts = {"mse": mse.detach(), "fvu": fvu.detach(), "l1": l1, "aux": aux.detach()}
        return Loss(fvu + AUX_COEFFICIENT * aux, parts, fired_n)

    def _aux_loss(self, x_Bd: Tensor, e_Bd: Tensor, dead_D: Int[Tensor, "D"]) -> Tensor:
        """min(|D| / k_aux, 1) · ‖e − ê‖² / ‖e‖², ê from the k_aux largest raw pre-activations of the dead."""
        if len(dead_D) == 0:
            return x_Bd.new_zeros(())
        k_aux = max(self.d_in // 2, 1)
        # index_select: its backward adds in a fixed order, as indexing's does not have to.
        W_enc_Dd, W_dec_Dd = self.W_enc_nd.index_select(0, dead_D), self.W_dec_nd.index_select(0, dead_D)
        z_BD = F.linear(x_Bd - self.b_dec_d, W_enc_Dd, self.b_enc_n.index_select(0, dead_D))
        if len(dead_D) > k_aux:
            values_Bk, indices_Bk = z_BD.topk(k_aux, dim=1, sorted=False)
            z_BD = torch.zeros_like(z_BD).scatter(1, indices_Bk, values_Bk)
        unexplained = (e_Bd - z_BD @ W_dec_Dd).square().mean() / e_Bd.square().mean()
        return min(len(dead_D) / k_aux, 1.0) * unexplained

    def constrain_gradients(self) -> None:
        # Renormalising undoes a step along a row, but Adam's moments would remember it.
        grad_nd = self.W_dec_nd.grad
        assert grad_nd is not None
        along_n1 = (grad_nd * self.W_dec_nd.detach()).sum(1, keepdim=True)
        grad_nd.addcmul_(along_n1, self.W_dec_nd.detach(), value=-1)

    def constrain_parameters(self) -> None:
        with torch.no_grad():
            self.W_dec_nd.div_(self.W_dec_nd.norm(dim=1, keepdim=True).clamp_min(1e-8))

    def _to_raw_units(self, mean_d: Tensor, scale: float) -> None:
        self.b_enc_n *= scale
        self.b_dec_d.mul_(scale).add_(mean_d)
