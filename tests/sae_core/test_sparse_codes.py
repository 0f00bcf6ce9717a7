"""The sparse kernels equal their plain twins, in value and in gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_core.kernels.sparse_codes import (
    Select,
    decode_sparse,
    decode_sparse_plain,
    encode_sparse,
    encode_sparse_plain,
    largest_of_each_row,
    largest_of_the_batch,
)


def inputs(B: int, d: int, n: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, W_enc, b_enc, b_dec, W_dec and a gradient for the output."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, d), (n, d), (n,), (d,), (n, d), (B, d)]
    return [torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def through(encode, decode, tensors: list[Tensor], select: Select) -> tuple[Tensor, ...]:
    """The reconstruction, and the gradients of x and of all weights."""
    x_Bd, W_enc_nd, b_enc_n, b_dec_d, W_dec_nd, grad_Bd = tensors
    xhat_Bd = decode(encode(x_Bd, W_enc_nd, b_enc_n, b_dec_d, select), len(x_Bd), W_dec_nd)
    return xhat_Bd, *torch.autograd.grad(xhat_Bd, tensors[:5], grad_Bd.detach())


SELECTS = {"each row": largest_of_each_row, "the batch": largest_of_the_batch}


@pytest.mark.parametrize("which", SELECTS)
@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 20),
    d=st.integers(1, 8),
    n=st.integers(1, 30),
    seed=st.integers(0, 1000),
    part=st.floats(0, 1),
)
def test_sparse_and_plain_agree_in_values_and_gradients(which: str, B: int, d: int, n: int, seed: int, part: float):
    select = SELECTS[which](1 + int(part * (n - 1)))
    tensors = inputs(B, d, n, seed)
    for sparse, plain in zip(
        through(encode_sparse, decode_sparse, tensors, select),
        through(encode_sparse_plain, decode_sparse_plain, tensors, select),
        strict=True,
    ):
        torch.testing.assert_close(sparse, plain, rtol=1e-10, atol=1e-10)


def test_the_sparse_gradient_is_that_of_finite_differences():
    *tensors, _ = inputs(6, 4, 11, seed=0)

    def reconstruction(x_Bd: Tensor, W_enc_nd: Tensor, b_enc_n: Tensor, b_dec_d: Tensor, W_dec_nd: Tensor) -> Tensor:
        codes = encode_sparse(x_Bd, W_enc_nd, b_enc_n, b_dec_d, largest_of_each_row(3))
        return decode_sparse(codes, len(x_Bd), W_dec_nd)

    assert torch.autograd.gradcheck(reconstruction, tensors)


def test_under_bfloat16_autocast_the_gradients_stay_float32_and_close():
    tensors = inputs(256, 64, 256, seed=0, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        sparse = through(encode_sparse, decode_sparse, tensors, largest_of_each_row(8))
        plain = through(encode_sparse_plain, decode_sparse_plain, tensors, largest_of_each_row(8))
    for ours, theirs in zip(sparse, plain, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() / theirs.norm() < 0.02


@pytest.mark.parametrize("select", [largest_of_each_row(16), largest_of_the_batch(16)], ids=list(SELECTS))
@pytest.mark.parametrize("threads", [1, 2])
def test_equal_inputs_give_equal_bits(threads: int, select: Select):
    tensors = inputs(512, 64, 256, seed=0, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first = through(encode_sparse, decode_sparse, tensors, select)
        for _ in range(5):
            again = through(encode_sparse, decode_sparse, tensors, select)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.set_num_threads(before)


@settings(max_examples=40, deadline=None)
@given(B=st.integers(1, 300), n=st.integers(1, 300), k=st.floats(0.1, 300), seed=st.integers(0, 1000))
def test_the_largest_of_the_batch_are_its_largest_positive_entries_in_order(B: int, n: int, k: float, seed: int):
    a_Bn = torch.randn(B, n, generator=torch.Generator().manual_seed(seed)).bfloat16()  # with ties
    values, positions = largest_of_the_batch(k)(a_Bn)
    expected = a_Bn.flatten().sort(descending=True).values[: max(1, int(k * B))]
    assert torch.equal(values.sort(descending=True).values, expected[expected > 0])
    assert torch.equal(values, a_Bn.flatten()[positions])
    assert (positions.diff() > 0).all()
