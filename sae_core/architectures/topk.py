"""TopK sparse autoencoder (Gao et al. 2024, arXiv 2406.04093, eq. 1–2).

    a = W_enc (x − b_dec) + b_enc        f = relu(topk(a, k))        x̂ = f W_dec + b_dec

    loss = ‖x − x̂‖² / ‖x − x̄‖²  +  1/32 · aux        (aux: sae_core.architectures.auxk)

Shapes: B rows, d activation width, n features, k active features a row.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures.auxk import AUX_COEFFICIENT, aux_loss
from sae_core.architectures.base import Loss, SparseAutoencoder, reconstruction_error
from sae_core.dictionary import register
from sae_core.kernels.sparse_codes import (
    Codes,
    Select,
    decode_sparse,
    decode_sparse_plain,
    encode_sparse,
    encode_sparse_plain,
    largest_of_each_row,
)


@register
class TopK(SparseAutoencoder):
    """The k largest pre-activations of a row are kept, and those of them that are positive are its codes."""

    method: ClassVar[str] = "topk"
    compares_features: ClassVar[bool] = True

    def __init__(self, d_in: int, n_features: int, k: int):
        super().__init__(d_in, n_features)
        if not 1 <= k <= n_features:
            raise ValueError(f"{self.method}: k={k} must lie between 1 and n_features={n_features}")
        self.k = k
        self.initialise(torch.Generator().manual_seed(0))

    def config(self) -> dict[str, Any]:
        return {**super().config(), "k": self.k}

    def encode(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        return topk_codes(self.pre_activations(x_Bd), self.k)

    def loss(self, x_Bd: Float[Tensor, "B d"], sparsity: float, dead_n: Bool[Tensor, "n"]) -> Loss:
        codes = sparse_encode(self, x_Bd, largest_of_each_row(self.k))
        xhat_Bd = sparse_decode(codes, len(x_Bd), self.W_dec_nd) + self.b_dec_d
        mse, fvu = reconstruction_error(x_Bd, xhat_Bd)
        aux = dead_feature_loss(self, x_Bd, x_Bd - xhat_Bd, dead_n)
        parts = {"mse": mse.detach(), "fvu": fvu.detach(), "l1": l1(codes, len(x_Bd)), "aux": aux.detach()}
        return Loss(fvu + AUX_COEFFICIENT * aux, parts, rows_fired(codes, self.n_features))


def topk_codes(a_Bn: Float[Tensor, "*B n"], k: int) -> Float[Tensor, "*B n"]:
    """relu(topk(a, k)), zero elsewhere."""
    values_Bk, indices_Bk = a_Bn.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(a_Bn).scatter(-1, indices_Bk, values_Bk.relu())


def sparse_encode(sae: SparseAutoencoder, x_Bd: Tensor, select: Select) -> Codes:
    """Codes of a batch by the fast path where there is one."""
    sae.check_rows(x_Bd)
    encode = encode_sparse if x_Bd.device.type == "cpu" else encode_sparse_plain
    return encode(x_Bd, sae.W_enc_nd, sae.b_enc_n, sae.encoder_center_d, select)


def sparse_decode(codes: Codes, n_rows: int, W_dec_nd: Tensor) -> Tensor:
    """Σ over a row's codes by the fast path where there is one."""
    decode = decode_sparse if W_dec_nd.device.type == "cpu" else decode_sparse_plain
    return decode(codes, n_rows, W_dec_nd)


def dead_feature_loss(sae: SparseAutoencoder, x_Bd: Tensor, e_Bd: Tensor, dead_n: Tensor) -> Tensor:
    """AuxK of a batch and the error that the live features left."""
    dead_D = dead_n.nonzero().squeeze(1)
    centred_Bd = x_Bd - sae.encoder_center_d
    return aux_loss(centred_Bd, e_Bd.detach(), sae.W_enc_nd, sae.b_enc_n, sae.W_dec_nd, dead_D)


def l1(codes: Codes, n_rows: int) -> Tensor:
    """Mean over rows of Σf, for the log."""
    return codes.values_M.detach().sum() / n_rows


def rows_fired(codes: Codes, n_features: int) -> Tensor:
    """On how many rows each feature is active, [n]."""
    active_M = (codes.values_M.detach() > 0).to(codes.values_M.dtype)
    return active_M.new_zeros(n_features).index_add_(0, codes.features_M, active_M)
