"""The sparse kernels equal their plain twins, in value and in gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_core.kernels.sparse_codes import decode_sparse, decode_sparse_plain, encode_topk, encode_topk_plain


def inputs(B: int, d: int, n: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, W_enc, b_enc, b_dec, W_dec and a gradient for the output."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, d), (n, d), (n,), (d,), (n, d), (B, d)]
    return [torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def through(encode, decode, tensors: list[Tensor], k: int) -> tuple[Tensor, ...]:
    """The reconstruction, and the gradients of x and of all weights."""
    x_Bd, W_enc_nd, b_enc_n, b_dec_d, W_dec_nd, grad_Bd = tensors
    values_Bk, indices_Bk = encode(x_Bd, W_enc_nd, b_enc_n, b_dec_d, k)
    xhat_Bd = decode(values_Bk, indices_Bk, W_dec_nd)
    return xhat_Bd, *torch.autograd.grad(xhat_Bd, tensors[:5], grad_Bd.detach())


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 20),
    d=st.integers(1, 8),
    n=st.integers(1, 30),
    seed=st.integers(0, 1000),
    part=st.floats(0, 1),
)
def test_sparse_and_plain_agree_in_values_and_gradients(B: int, d: int, n: int, seed: int, part: float):
    k = 1 + int(part * (n - 1))
    tensors = inputs(B, d, n, seed)
    for sparse, plain in zip(
        through(encode_topk, decode_sparse, tensors, k),
        through(encode_topk_plain, decode_sparse_plain, tensors, k),
        strict=True,
    ):
        torch.testing.assert_close(sparse, plain, rtol=1e-10, atol=1e-10)


def test_the_sparse_gradient_is_that_of_finite_differences():
    *tensors, _ = inputs(6, 4, 11, seed=0)

    def reconstruction(x_Bd: Tensor, W_enc_nd: Tensor, b_enc_n: Tensor, b_dec_d: Tensor, W_dec_nd: Tensor) -> Tensor:
        return decode_sparse(*encode_topk(x_Bd, W_enc_nd, b_enc_n, b_dec_d, 3), W_dec_nd)

    assert torch.autograd.gradcheck(reconstruction, tensors)


def test_under_bfloat16_autocast_the_gradients_stay_float32_and_close():
    tensors = inputs(256, 64, 256, seed=0, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        sparse = through(encode_topk, decode_sparse, tensors, 8)
        plain = through(encode_topk_plain, decode_sparse_plain, tensors, 8)
    for ours, theirs in zip(sparse, plain, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() / theirs.norm() < 0.02


@pytest.mark.parametrize("threads", [1, 2])
def test_equal_inputs_give_equal_bits(threads: int):
    tensors = inputs(512, 64, 256, seed=0, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first = through(encode_topk, decode_sparse, tensors, 16)
        for _ in range(5):
            again = through(encode_topk, decode_sparse, tensors, 16)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.set_num_threads(before)
