"""TopK's encoder and decoder on codes kept as (value, index) pairs, never as a dense [B, n] matrix.

    v, i = relu(topk((x − b_dec) W_encᵀ + b_enc, k))        x̂_row = Σ_k v_k W_dec[i_k]

With k = 32 of 2304 features, 98.6 % of the products of a dense decode and of the three dense backward
products are with zero. What is left here is one dense product (the encoder's forward, in bfloat16 under
autocast) and sparse sums, each a weighted `embedding_bag`:

    rows:      Σ_k v_k W[i_k]                    a bag per row, over the features active in it
    features:  Σ_{(row, k): i_k = j} v_k x_row   a bag per feature, over the rows that it is active in

A bag is summed in one thread and in order, so equal inputs give equal bits. CPU only; the `_plain` twins run
anywhere.

Shapes: B rows, d activation width, n features, k active features a row.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Codes = tuple[Tensor, Tensor]
"""Values [B, k] and the features that they belong to [B, k]."""


def encode_topk(
    x_Bd: Float[Tensor, "B d"],
    W_enc_nd: Float[Tensor, "n d"],
    b_enc_n: Float[Tensor, "n"],
    b_dec_d: Float[Tensor, "d"],
    k: int,
) -> Codes:
    """The k largest pre-activations of each row, rectified: values [B, k] and feature indices [B, k]."""
    return _EncodeTopK.apply(x_Bd, W_enc_nd, b_enc_n, b_dec_d, k)  # pyright: ignore[reportReturnType]


def encode_topk_plain(x_Bd: Tensor, W_enc_nd: Tensor, b_enc_n: Tensor, b_dec_d: Tensor, k: int) -> Codes:
    """`encode_topk` as it is defined, with autograd's dense backward."""
    values_Bk, indices_Bk = F.linear(x_Bd - b_dec_d, W_enc_nd, b_enc_n).topk(k, dim=-1, sorted=False)
    return values_Bk.relu().to(x_Bd.dtype), indices_Bk


def decode_sparse(
    values_Bk: Float[Tensor, "B k"], indices_Bk: Int[Tensor, "B k"], W_dec_nd: Float[Tensor, "n d"]
) -> Float[Tensor, "B d"]:
    """Σ_k v_k W_dec[i_k] for each row."""
    xhat_Bd = _sum_over_features(values_Bk, indices_Bk, W_dec_nd.detach())
    return _WithDecoderGradient.apply(xhat_Bd, W_dec_nd, values_Bk.detach(), indices_Bk)  # pyright: ignore[reportReturnType]


def decode_sparse_plain(values_Bk: Tensor, indices_Bk: Tensor, W_dec_nd: Tensor) -> Tensor:
    """`decode_sparse` as it is defined: a dense product with the scattered codes."""
    f_Bn = values_Bk.new_zeros(len(values_Bk), len(W_dec_nd)).scatter(1, indices_Bk, values_Bk)
    return (f_Bn @ W_dec_nd).to(values_Bk.dtype)


class _EncodeTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_Bd: Tensor, W_enc_nd: Tensor, b_enc_n: Tensor, b_dec_d: Tensor, k: int) -> Codes:
        centred_Bd = x_Bd - b_dec_d
        values_Bk, indices_Bk = F.linear(centred_Bd, W_enc_nd, b_enc_n).topk(k, dim=1, sorted=False)
        values_Bk = values_Bk.relu().to(x_Bd.dtype)
        ctx.save_for_backward(centred_Bd, W_enc_nd, values_Bk, indices_Bk)
        ctx.mark_non_differentiable(indices_Bk)
        return values_Bk, indices_Bk

    @staticmethod
    def backward(ctx: Any, grad_Bk: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        centred_Bd, W_enc_nd, values_Bk, indices_Bk = ctx.saved_tensors
        grad_Bk = grad_Bk * (values_Bk > 0)  # the ReLU's
        grad_b_enc_n = grad_Bk.new_zeros(len(W_enc_nd)).index_add_(0, indices_Bk.flatten(), grad_Bk.flatten())
        grad_W_enc_nd = _sum_over_rows(grad_Bk, indices_Bk, centred_Bd, len(W_enc_nd))
        grad_x_Bd = _sum_over_features(grad_Bk, indices_Bk, W_enc_nd) if ctx.needs_input_grad[0] else None
        # b_dec enters every row alike, so the sum over rows suffices: [n] @ [n, d], no B in it.
        grad_b_dec_d = -(grad_b_enc_n @ W_enc_nd)
        return grad_x_Bd, grad_W_enc_nd, grad_b_enc_n, grad_b_dec_d, None


class _WithDecoderGradient(torch.autograd.Function):
    """Passes x̂ through and gives W_dec its gradient, which embedding_bag's own backward is slow at."""

    @staticmethod
    def forward(ctx: Any, xhat_Bd: Tensor, W_dec_nd: Tensor, values_Bk: Tensor, indices_Bk: Tensor) -> Tensor:
        ctx.save_for_backward(values_Bk, indices_Bk)
        ctx.n_features = len(W_dec_nd)
        return xhat_Bd.view_as(xhat_Bd)

    @staticmethod
    def backward(ctx: Any, grad_Bd: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values_Bk, indices_Bk = ctx.saved_tensors
        return grad_Bd, _sum_over_rows(values_Bk, indices_Bk, grad_Bd, ctx.n_features), None, None


def _sum_over_features(values_Bk: Tensor, indices_Bk: Tensor, W_nd: Tensor) -> Tensor:
    """[B, d]: each row's weighted sum of feature vectors."""
    return F.embedding_bag(indices_Bk, W_nd, per_sample_weights=values_Bk, mode="sum")


def _sum_over_rows(values_Bk: Tensor, indices_Bk: Tensor, x_Bd: Tensor, n_features: int) -> Tensor:
    """[n, d]: each feature's weighted sum of the rows that it is active in."""
    k = indices_Bk.shape[1]
    features, order = indices_Bk.flatten().sort(stable=True)
    bag_starts_n = torch.searchsorted(features, torch.arange(n_features))
    weights = values_Bk.flatten()[order]
    return F.embedding_bag(order // k, x_Bd, bag_starts_n, per_sample_weights=weights, mode="sum")
