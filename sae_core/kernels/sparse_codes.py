"""Encoding and decoding with codes kept as a list of (row, feature, value), never as a dense [B, n] matrix.

    a = (x − center) W_encᵀ + b_enc      f = relu of the entries of a that `select` keeps      x̂_row = Σ f_m W_dec[i_m]

With 32 of 2304 features active in a row, 98.6 % of the products of a dense decode and of the three dense backward
products are with zero. What is left here is one dense product (the encoder's forward, in bfloat16 under
autocast) and sparse sums, each a weighted `embedding_bag`:

    rows:      Σ_{m in the row} v_m W[i_m]       a bag per row, over the features active in it
    features:  Σ_{m of the feature} v_m x_row    a bag per feature, over the rows that it is active in

A bag is summed in one thread and in order, so equal inputs give equal bits. CPU only; the `_plain` twins run
anywhere.

Shapes: B rows, d activation width, n features, M kept entries.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Select = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Which entries of pre-activations [B, n] to keep: their values [M], and their flat positions row·n + feature [M],
rows in ascending order."""


class Codes(NamedTuple):
    """The kept entries of a batch, rows in ascending order; a value may be zero."""

    values_M: Float[Tensor, "M"]
    rows_M: Int[Tensor, "M"]
    features_M: Int[Tensor, "M"]


def largest_of_each_row(k: int) -> Select:
    """The k largest pre-activations of each row (TopK)."""

    def select(a_Bn: Tensor) -> tuple[Tensor, Tensor]:
        values_Bk, features_Bk = a_Bn.topk(k, dim=1, sorted=False)
        starts_B1 = torch.arange(0, a_Bn.numel(), a_Bn.shape[1], device=a_Bn.device).unsqueeze(1)
        return values_Bk.flatten(), (features_Bk + starts_B1).flatten()

    return select


def largest_of_the_batch(k: float) -> Select:
    """The int(k·B) largest pre-activations of the batch, among those that are positive (BatchTopK)."""

    def select(a_Bn: Tensor) -> tuple[Tensor, Tensor]:
        wanted = max(1, int(k * len(a_Bn)))
        flat = a_Bn.flatten()
        # Selecting among all B·n entries is slow: a sample's quantile leaves out most of those that are too small.
        sample = flat[:: (len(flat) >> 16) | 1].float()  # an odd stride meets all features
        enough = min(1.0, 1.5 * wanted / len(flat))
        floor = sample.kthvalue(max(1, round((1 - enough) * len(sample)))).values.clamp_min(0)
        positions = (flat > floor).nonzero().squeeze(1)
        if len(positions) < wanted:
            positions = (flat > 0).nonzero().squeeze(1)
        if len(positions) > wanted:
            positions = positions[flat[positions].topk(wanted, sorted=False).indices].sort().values
        return flat[positions], positions

    return select


def encode_sparse(
    x_Bd: Float[Tensor, "B d"],
    W_enc_nd: Float[Tensor, "n d"],
    b_enc_n: Float[Tensor, "n"],
    center_d: Float[Tensor, "d"],
    select: Select,
) -> Codes:
    """The pre-activations that `select` keeps, rectified."""
    values_M, positions_M = _EncodeSparse.apply(x_Bd, W_enc_nd, b_enc_n, center_d, select)  # pyright: ignore[reportGeneralTypeIssues]
    return Codes(values_M, positions_M // len(W_enc_nd), positions_M % len(W_enc_nd))


def encode_sparse_plain(x_Bd: Tensor, W_enc_nd: Tensor, b_enc_n: Tensor, center_d: Tensor, select: Select) -> Codes:
    """`encode_sparse` as it is defined, with autograd's dense backward."""
    a_Bn = F.linear(x_Bd - center_d, W_enc_nd, b_enc_n)
    with torch.no_grad():
        _, positions_M = select(a_Bn)
    values_M = a_Bn.flatten()[positions_M].relu().to(x_Bd.dtype)
    return Codes(values_M, positions_M // len(W_enc_nd), positions_M % len(W_enc_nd))


def decode_sparse(codes: Codes, n_rows: int, W_dec_nd: Float[Tensor, "n d"]) -> Float[Tensor, "B d"]:
    """Σ v_m W_dec[i_m] over the entries of each row; zero for a row without any."""
    starts_B = torch.searchsorted(codes.rows_M, torch.arange(n_rows))
    xhat_Bd = F.embedding_bag(
        codes.features_M, W_dec_nd.detach(), starts_B, per_sample_weights=codes.values_M, mode="sum"
    )
    return _WithDecoderGradient.apply(xhat_Bd, W_dec_nd, codes)  # pyright: ignore[reportReturnType]


def decode_sparse_plain(codes: Codes, n_rows: int, W_dec_nd: Tensor) -> Tensor:
    """`decode_sparse` as it is defined: a dense product with the scattered codes."""
    f_Bn = codes.values_M.new_zeros(n_rows, len(W_dec_nd))
    f_Bn = f_Bn.index_put((codes.rows_M, codes.features_M), codes.values_M)
    return (f_Bn @ W_dec_nd).to(codes.values_M.dtype)


class _EncodeSparse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_Bd: Tensor, W_enc_nd: Tensor, b_enc_n: Tensor, center_d: Tensor, select: Select
    ) -> tuple[Tensor, Tensor]:
        centred_Bd = x_Bd - center_d
        values_M, positions_M = select(F.linear(centred_Bd, W_enc_nd, b_enc_n))
        values_M = values_M.relu().to(x_Bd.dtype)
        ctx.save_for_backward(centred_Bd, W_enc_nd, values_M, positions_M)
        ctx.mark_non_differentiable(positions_M)
        return values_M, positions_M

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        centred_Bd, W_enc_nd, values_M, positions_M = ctx.saved_tensors
        n_features = len(W_enc_nd)
        grads = Codes(grad_M * (values_M > 0), positions_M // n_features, positions_M % n_features)  # the ReLU's
        grad_b_enc_n = grad_M.new_zeros(n_features).index_add_(0, grads.features_M, grads.values_M)
        grad_W_enc_nd = _sum_over_rows(grads, centred_Bd, n_features)
        grad_x_Bd = decode_sparse(grads, len(centred_Bd), W_enc_nd) if ctx.needs_input_grad[0] else None
        # The centre enters every row alike, so the sum over rows suffices: [n] @ [n, d], no B in it.
        grad_center_d = -(grad_b_enc_n @ W_enc_nd) if ctx.needs_input_grad[3] else None
        return grad_x_Bd, grad_W_enc_nd, grad_b_enc_n, grad_center_d, None


class _WithDecoderGradient(torch.autograd.Function):
    """Passes x̂ through and gives W_dec its gradient, which embedding_bag's own backward is slow at."""

    @staticmethod
    def forward(ctx: Any, xhat_Bd: Tensor, W_dec_nd: Tensor, codes: Codes) -> Tensor:
        ctx.save_for_backward(codes.values_M.detach(), codes.rows_M, codes.features_M)
        ctx.n_features = len(W_dec_nd)
        return xhat_Bd.view_as(xhat_Bd)

    @staticmethod
    def backward(ctx: Any, grad_Bd: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad_Bd, _sum_over_rows(Codes(*ctx.saved_tensors), grad_Bd, ctx.n_features), None


def _sum_over_rows(codes: Codes, x_Bd: Tensor, n_features: int) -> Tensor:
    """[n, d]: each feature's weighted sum of the rows that it is active in."""
    features_M, order_M = codes.features_M.sort(stable=True)
    starts_n = torch.searchsorted(features_M, torch.arange(n_features))
    weights_M = codes.values_M[order_M]
    return F.embedding_bag(codes.rows_M[order_M], x_Bd, starts_n, per_sample_weights=weights_M, mode="sum")
