"""The maths of the trainable dictionaries, held against closed forms and finite differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import functional_call

from sae_core import TiedReLU, TopK, TrainableDictionary, Trainer, TrainingConfig
from sae_core.architectures.topk import AUX_COEFFICIENT

NONE_DEAD = torch.zeros(9, dtype=torch.bool)
SOME_DEAD = torch.tensor([0, 1, 1, 0, 1, 1, 0, 0, 1], dtype=torch.bool)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_random_biases(dictionary: TrainableDictionary) -> TrainableDictionary:
    dictionary = dictionary.double()
    with torch.no_grad():
        for seed, parameter in enumerate(dictionary.parameters()):
            if parameter.ndim == 1:
                parameter.copy_(noise(*parameter.shape, seed=seed) / 3)
    return dictionary


def check_gradients(dictionary: TrainableDictionary, scalar: Callable[[Any], Tensor]) -> None:
    """Finite differences of `scalar(dictionary)` in every parameter."""

    class Scalar(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dictionary = dictionary

        def forward(self) -> Tensor:
            return scalar(self.dictionary)

    names, values = zip(*Scalar().named_parameters(), strict=True)
    values = [value.detach().clone().requires_grad_() for value in values]
    assert gradcheck(lambda *v: functional_call(Scalar(), dict(zip(names, v, strict=True)), ()), values)


@pytest.mark.parametrize(
    "dictionary",
    [
        TiedReLU(5, 9, alpha=0.1),
        TopK(5, 9, k=3),
        TopK(5, 9, k=9),
        TopK(1, 9, k=2),
    ],
    ids=["tied", "topk", "topk-all", "topk-one-dimension"],
)
def test_the_losss_gradient_is_that_of_finite_differences(dictionary: TrainableDictionary):
    x_Bd = noise(8, dictionary.d_in, seed=3)
    check_gradients(with_random_biases(dictionary), lambda it: it.loss(x_Bd, 0.5, NONE_DEAD).total)


@pytest.mark.parametrize("d_in", [4, 12], ids=["more dead than k_aux", "fewer dead than k_aux"])
def test_auxks_gradient_is_that_of_finite_differences_with_the_error_held_fixed(d_in: int):
    topk = with_random_biases(TopK(d_in, 9, k=3))
    x_Bd, e_Bd, dead_D = noise(8, d_in, seed=3), noise(8, d_in, seed=4), SOME_DEAD.nonzero().squeeze(1)
    check_gradients(topk, lambda it: it._aux_loss(x_Bd, e_Bd, dead_D))


def test_auxk_gives_every_dead_feature_an_encoder_gradient_even_at_negative_pre_activations():
    topk = TopK(16, 9, k=2)
    x_Bd = noise(64, 16).float()
    with torch.no_grad():
        topk.b_enc_n[SOME_DEAD] = -100.0
    dead = SOME_DEAD

    topk.loss(x_Bd, 1.0, NONE_DEAD).total.backward()
    assert topk.W_enc_nd.grad is not None
    assert (topk.W_enc_nd.grad[dead] == 0).all(), "without AuxK they never move"

    topk.zero_grad()
    topk.loss(x_Bd, 1.0, dead).total.backward()
    assert (topk.W_enc_nd.grad[dead].norm(dim=1) > 0).all()


def test_auxk_uses_raw_pre_activations_of_the_dead_and_counts_fewer_dead_for_less():
    topk = with_random_biases(TopK(12, 9, k=3))
    x_Bd = noise(8, 12, seed=3)
    loss = topk.loss(x_Bd, 1.0, SOME_DEAD)
    e_Bd = x_Bd - topk(x_Bd)
    z_Bn = ((x_Bd - topk.b_dec_d) @ topk.W_enc_nd.T + topk.b_enc_n) * SOME_DEAD  # 5 dead < k_aux = 6: all are used
    expected = 5 / 6 * (e_Bd - z_Bn @ topk.W_dec_nd).square().sum() / e_Bd.square().sum()
    torch.testing.assert_close(loss.parts["aux"], expected.detach())
    torch.testing.assert_close(loss.total.detach(), loss.parts["fvu"] + AUX_COEFFICIENT * expected.detach())


def test_tied_loss_is_the_authors_formula():
    tied = with_random_biases(TiedReLU(5, 9, alpha=0.3))
    x_Bd = noise(8, 5, seed=3)
    U_nd = tied.W_nd / tied.W_nd.norm(dim=1, keepdim=True)
    c_Bn = torch.relu(x_Bd @ U_nd.T + tied.b_n)
    expected = (c_Bn @ U_nd - x_Bd).square().mean() + 0.5 * 0.3 * c_Bn.abs().sum(1).mean()
    torch.testing.assert_close(tied.loss(x_Bd, 0.5, NONE_DEAD).total, expected)


@pytest.mark.parametrize("d", [64, 512])
def test_a_lone_tied_feature_comes_out_half_alpha_times_d_too_small(d: int):
    """The minimum over c of (c − a)²/d + α·c is at a − α·d/2."""
    alpha, size = 0.2 / d, 1.0
    direction_d = torch.nn.functional.normalize(noise(d).float(), dim=0)
    tied = TiedReLU(d, 1, alpha)
    trainer = Trainer(tied, TrainingConfig(steps=300, learning_rate=2e-2, lr_decay_steps=200, compute_dtype="float32"))
    with torch.no_grad():
        tied.W_nd.copy_(direction_d[None] + 0.1 * noise(1, d, seed=1).float() / d**0.5)
    trainer.train(iter([size * direction_d.expand(4, d)] * 300))
    shrinkage = size - tied.encode(size * direction_d[None]).item()
    assert shrinkage == pytest.approx(alpha * d / 2, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 9), seed=st.integers(0, 1000))
def test_topk_keeps_at_most_k_features_a_row_and_they_are_its_largest(k: int, seed: int):
    topk = with_random_biases(TopK(5, 9, k))
    x_Bd = noise(20, 5, seed=seed)
    a_Bn = (x_Bd - topk.b_dec_d) @ topk.W_enc_nd.T + topk.b_enc_n
    f_Bn = topk.encode(x_Bd)
    assert ((f_Bn > 0).sum(1) <= k).all()
    assert ((f_Bn > 0).sum(1) == (a_Bn > 0).sum(1).clamp(max=k)).all()
    torch.testing.assert_close(f_Bn.sort(1, descending=True).values[:, :k], a_Bn.relu().topk(k, dim=1).values)


@pytest.mark.parametrize("dictionary", [TiedReLU(5, 9, alpha=0.1), TopK(5, 9, k=3)], ids=lambda d: d.method)
def test_the_loss_speaks_of_the_same_codes_as_encode_and_decode(dictionary: TrainableDictionary):
    dictionary = with_random_biases(dictionary)
    x_Bd = noise(30, 5, seed=3)
    loss = dictionary.loss(x_Bd, 1.0, NONE_DEAD)
    f_Bn = dictionary.encode(x_Bd)
    assert torch.equal(loss.fired_n, (f_Bn > 0).sum(0).double())
    torch.testing.assert_close(loss.parts["mse"], (dictionary(x_Bd) - x_Bd).square().mean().detach())
    torch.testing.assert_close(loss.parts["l1"], f_Bn.sum(1).mean().detach())


def test_topk_decoder_rows_stay_unit_and_their_gradient_orthogonal():
    topk = TopK(6, 12, k=3)
    trainer = Trainer(topk, TrainingConfig(steps=5, compute_dtype="float32", gradient_clip=None))
    trainer.train(noise(20, 6, seed=seed).float() for seed in range(5))
    torch.testing.assert_close(topk.W_dec_nd.norm(dim=1), torch.ones(12))

    topk.zero_grad()
    topk.loss(noise(20, 6).float(), 1.0, torch.zeros(12, dtype=torch.bool)).total.backward()
    topk.constrain_gradients()
    assert topk.W_dec_nd.grad is not None
    assert topk.W_dec_nd.grad.norm() > 1e-3
    assert (topk.W_dec_nd.grad * topk.W_dec_nd).sum(1).abs().max() < 1e-6


def test_topk_starts_with_its_encoder_equal_to_its_decoder():
    topk = TopK(6, 12, k=3)
    assert torch.equal(topk.W_enc_nd, topk.W_dec_nd)


@pytest.mark.parametrize("dictionary", [TiedReLU(5, 9, alpha=0.1), TopK(5, 9, k=3)], ids=lambda d: d.method)
def test_initialisation_is_a_function_of_the_generator_alone(dictionary: TrainableDictionary):
    def initialised(seed: int) -> Tensor:
        dictionary.initialise(torch.Generator().manual_seed(seed))
        return torch.cat([parameter.detach().flatten().clone() for parameter in dictionary.parameters()])

    first = initialised(0)
    assert not torch.equal(first, initialised(1))
    assert torch.equal(first, initialised(0))


def test_a_negative_alpha_is_refused():
    with pytest.raises(ValueError, match="alpha=-1 must not be negative"):
        TiedReLU(5, 9, alpha=-1)
