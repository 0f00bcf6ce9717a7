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

from sae_core import (
    BatchTopK,
    Crosscoder,
    Gated,
    JumpReLU,
    MatryoshkaBatchTopK,
    Normalization,
    ReLU,
    TiedReLU,
    TopK,
    TrainableDictionary,
    Trainer,
    TrainingConfig,
    Transcoder,
)
from sae_core.architectures.auxk import AUX_COEFFICIENT, aux_loss
from sae_core.architectures.base import badly_rebuilt
from sae_core.architectures.jumprelu import jump_relu
from tests.sae_core.zoo import ZOO, N, noise, with_random_biases

NONE_DEAD = torch.zeros(9, dtype=torch.bool)
SOME_DEAD = torch.tensor([0, 1, 1, 0, 1, 1, 0, 0, 1], dtype=torch.bool)


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


SMOOTH = {name: make for name, make in ZOO.items() if name != "gated" and "jumprelu" not in name}
"""Those whose loss is differentiable where no feature switches; the others estimate or detach."""


@pytest.mark.parametrize("make", SMOOTH.values(), ids=SMOOTH)
def test_the_losss_gradient_is_that_of_finite_differences(make: Callable[[], TrainableDictionary]):
    x_Bd = noise(8, 8, seed=3)
    none_dead = torch.zeros(N, dtype=torch.bool)
    check_gradients(with_random_biases(make()), lambda it: it.loss(x_Bd, 0.5, none_dead).total)


@pytest.mark.parametrize(("d", "n", "k"), [(5, 9, 9), (1, 9, 2)])
def test_topks_gradient_holds_at_the_edges(d: int, n: int, k: int):
    x_Bd = noise(8, d, seed=3)
    check_gradients(with_random_biases(TopK(d, n, k)), lambda it: it.loss(x_Bd, 0.5, NONE_DEAD).total)


def test_gateds_gradient_is_that_of_finite_differences_with_its_third_terms_decoder_held_fixed():
    gated = with_random_biases(Gated(5, 9, l1_coefficient=0.3))
    x_Bd = noise(8, 5, seed=3)
    fixed_W, fixed_b = gated.W_dec_nd.detach().clone(), gated.b_dec_d.detach().clone()

    def loss(it: Any) -> Tensor:
        u_Bn = (x_Bd - it.b_dec_d) @ it.W_enc_nd.T
        gate_Bn = u_Bn + it.b_enc_n
        f_Bn = (gate_Bn > 0) * torch.relu(it.r_mag_n.exp() * u_Bn + it.b_mag_n)
        rebuilt, by_gate = f_Bn @ it.W_dec_nd + it.b_dec_d, gate_Bn.relu() @ fixed_W + fixed_b
        errors = (rebuilt - x_Bd).square().sum(1).mean() + (by_gate - x_Bd).square().sum(1).mean()
        return errors + 0.5 * 0.3 * gate_Bn.relu().sum(1).mean()

    check_gradients(gated, loss)
    by_formula = torch.autograd.grad(loss(gated), list(gated.parameters()))
    total = gated.loss(x_Bd, 0.5, NONE_DEAD).total
    torch.testing.assert_close(total, loss(gated))
    for ours, expected in zip(torch.autograd.grad(total, list(gated.parameters())), by_formula, strict=True):
        torch.testing.assert_close(ours, expected)


def test_jumprelus_estimators_are_their_formulae():
    pi_Bn, theta_n, width = noise(50, 9).relu().requires_grad_(), noise(9, seed=1).abs().requires_grad_(), 0.7
    grad_f_Bn, grad_fired_n = noise(50, 9, seed=2), noise(9, seed=3)
    f_Bn, fired_n = jump_relu(pi_Bn, theta_n, width)
    assert torch.equal(f_Bn, pi_Bn * (pi_Bn > theta_n))
    assert torch.equal(fired_n, (pi_Bn > theta_n).double().sum(0))
    by_pi_Bn, by_theta_n = torch.autograd.grad([f_Bn, fired_n], [pi_Bn, theta_n], [grad_f_Bn, grad_fired_n])
    K_Bn = (((pi_Bn - theta_n) / width).abs() < 0.5).double()
    torch.testing.assert_close(by_pi_Bn, grad_f_Bn * (pi_Bn > theta_n))
    expected = -(grad_f_Bn * theta_n / width * K_Bn).sum(0) - (grad_fired_n / width * K_Bn).sum(0)
    torch.testing.assert_close(by_theta_n, expected)


def test_jumprelus_estimator_is_the_slope_of_the_mean_over_smooth_data():
    """At a density of 1 − π on [0, 1], E[1[π > θ]] has the slope −2(1 − θ) · ½ … counted on a fine grid."""
    pi_B1 = torch.linspace(0, 1, 200_001, dtype=torch.float64).unsqueeze(1)
    theta_n = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    f_B1, fired_n = jump_relu(pi_B1, theta_n, 0.2)
    (by_l0,) = torch.autograd.grad(fired_n / len(pi_B1), theta_n, retain_graph=True)
    assert by_l0.item() == pytest.approx(-1, rel=1e-3), "d/dθ (1 − θ)"
    (by_f,) = torch.autograd.grad(f_B1.mean(), theta_n)
    assert by_f.item() == pytest.approx(-0.4, rel=1e-3), "d/dθ ∫_θ¹ π dπ"


@pytest.mark.parametrize(
    ("arguments", "penalty"),
    [
        ({}, lambda f: (f > 0).double().sum(1).mean()),
        ({"penalty": "tanh"}, lambda f: (4 * f).tanh().sum(1).mean()),
        ({"target_l0": 3}, lambda f: ((f > 0).double().sum(1).mean() / 3 - 1) ** 2),
    ],
)
def test_jumprelus_penalties_are_their_formulae(arguments: dict, penalty: Callable[[Tensor], Tensor]):
    jumprelu = with_random_biases(JumpReLU(5, 9, coefficient=0.3, **arguments))
    x_Bd = noise(8, 5, seed=3)
    loss = jumprelu.loss(x_Bd, 0.5, NONE_DEAD)
    expected = loss.parts["fvu"] + 0.5 * 0.3 * penalty(jumprelu.encode(x_Bd))
    torch.testing.assert_close(loss.total.detach(), expected.detach())


@pytest.mark.parametrize("d_in", [4, 12], ids=["more dead than k_aux", "fewer dead than k_aux"])
def test_auxks_gradient_is_that_of_finite_differences_with_the_error_held_fixed(d_in: int):
    topk = with_random_biases(TopK(d_in, 9, k=3))
    x_Bd, e_Bd, dead_D = noise(8, d_in, seed=3), noise(8, d_in, seed=4), SOME_DEAD.nonzero().squeeze(1)
    check_gradients(topk, lambda it: aux_loss(x_Bd - it.b_dec_d, e_Bd, it.W_enc_nd, it.b_enc_n, it.W_dec_nd, dead_D))


WITH_AUXK = ["topk", "batch_topk", "matryoshka_batch_topk", "transcoder", "crosscoder"]


@pytest.mark.parametrize("method", WITH_AUXK)
def test_auxk_gives_every_dead_feature_an_encoder_gradient_even_at_negative_pre_activations(method: str):
    model = ZOO[method]()
    x_Bd = noise(64, 8).float()
    dead = torch.arange(N) % 8 == 1  # fewer than k_aux, so that none of them is left out
    b_enc_n, W_enc_nd = model.get_parameter("b_enc_n"), model.get_parameter("W_enc_nd")
    with torch.no_grad():
        b_enc_n[dead] = -100.0

    model.loss(x_Bd, 1.0, torch.zeros(N, dtype=torch.bool)).total.backward()
    assert W_enc_nd.grad is not None
    assert (W_enc_nd.grad[dead] == 0).all(), "without AuxK they never move"

    model.zero_grad()
    model.loss(x_Bd, 1.0, dead).total.backward()
    assert (W_enc_nd.grad[dead].norm(dim=1) > 0).all()


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


PER_ROW = {name: make for name, make in ZOO.items() if "batch_topk" not in name and name != "transcoder"}


@pytest.mark.parametrize("make", PER_ROW.values(), ids=PER_ROW)
def test_the_loss_speaks_of_the_same_codes_as_encode_and_decode(make: Callable[[], TrainableDictionary]):
    dictionary = with_random_biases(make())
    x_Bd = noise(30, 8, seed=3)
    loss = dictionary.loss(x_Bd, 1.0, torch.zeros(N, dtype=torch.bool))
    f_Bn = dictionary.encode(x_Bd)
    assert torch.equal(loss.fired_n, (f_Bn > 0).sum(0).double())
    torch.testing.assert_close(loss.parts["mse"], (dictionary(x_Bd) - x_Bd).square().mean().detach())
    if dictionary.method != "gated":  # whose l1 is the gate's
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


@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_initialisation_is_a_function_of_the_generator_alone(make: Callable[[], TrainableDictionary]):
    dictionary = make()

    def initialised(seed: int) -> Tensor:
        dictionary.initialise(torch.Generator().manual_seed(seed))
        return torch.cat([parameter.detach().flatten().clone() for parameter in dictionary.parameters()])

    first = initialised(0)
    assert not torch.equal(first, initialised(1))
    assert torch.equal(first, initialised(0))


def test_a_negative_alpha_is_refused():
    with pytest.raises(ValueError, match="alpha=-1 must not be negative"):
        TiedReLU(5, 9, alpha=-1)


def test_batch_topk_keeps_k_times_b_entries_of_a_batch_and_gives_more_to_rows_that_need_more():
    model = with_random_biases(BatchTopK(5, 9, k=2.5))
    x_Bd = noise(40, 5, seed=3) * torch.linspace(0.1, 3, 40, dtype=torch.float64)[:, None]
    loss = model.loss(x_Bd, 1.0, NONE_DEAD)
    assert loss.fired_n.sum() == 100
    a_Bn = model.pre_activations(x_Bd).relu()
    smallest = a_Bn.flatten().topk(100).values[-1]
    assert torch.equal(loss.fired_n, (a_Bn >= smallest).sum(0).double())


def test_the_threshold_is_the_bias_corrected_mean_of_the_smallest_kept_values():
    model = BatchTopK(5, 9, k=2)
    assert model.threshold == 0
    smallest = []
    for seed in range(4):
        x_Bd = noise(40, 5, seed=seed).float()
        smallest.append(model.pre_activations(x_Bd).flatten().topk(80).values[-1].item())
        model.loss(x_Bd, 1.0, NONE_DEAD)
        model.constrain_parameters()  # which leaves rows that are unit already
    weights = [0.99 ** (3 - step) for step in range(4)]
    expected = sum(w * s for w, s in zip(weights, smallest, strict=True)) / sum(weights)
    assert model.threshold.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["batch_topk", "matryoshka_batch_topk"])
def test_after_200_steps_the_inference_l0_is_within_a_tenth_of_k(method: str):
    k, d, n = 8, 32, 128
    widths = {"widths": (16, 48, n)} if method == "matryoshka_batch_topk" else {}
    model = {"batch_topk": BatchTopK, "matryoshka_batch_topk": MatryoshkaBatchTopK}[method](d, n, k, **widths)
    true_nd = torch.nn.functional.normalize(noise(64, d).float(), dim=1)

    def rows(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(512, 64, generator=generator).sub(0.9).relu() * 10) @ true_nd

    Trainer(model, TrainingConfig(steps=200)).train(rows(seed) for seed in range(200))
    with torch.no_grad():
        l0 = (model.encode(torch.cat([rows(1000 + seed) for seed in range(20)])) > 0).sum(1).double().mean()
    assert l0.item() == pytest.approx(k, rel=0.1)


def test_matryoshkas_loss_is_the_mean_over_prefixes_and_with_one_prefix_batch_topks():
    x_Bd = noise(40, 5, seed=3)
    model = with_random_biases(MatryoshkaBatchTopK(5, 9, k=2, widths=(2, 5, 9)))
    loss = model.loss(x_Bd, 1.0, NONE_DEAD)
    a_Bn = model.pre_activations(x_Bd).relu()
    f_Bn = a_Bn * (a_Bn >= a_Bn.flatten().topk(80).values[-1])
    variance = (x_Bd - x_Bd.mean(0)).square().sum()
    prefixes = [f_Bn[:, :w] @ model.W_dec_nd[:w] + model.b_dec_d for w in (2, 5, 9)]
    expected = sum((x_Bd - xhat).square().sum() / variance for xhat in prefixes) / 3
    torch.testing.assert_close(loss.total, expected)

    one = with_random_biases(MatryoshkaBatchTopK(5, 9, k=2, widths=(9,)))
    plain = with_random_biases(BatchTopK(5, 9, k=2))
    plain.load_state_dict(one.state_dict())
    torch.testing.assert_close(one.loss(x_Bd, 1.0, SOME_DEAD).total, plain.loss(x_Bd, 1.0, SOME_DEAD).total)


UNEQUAL = ["relu", "gated", "jumprelu"]


@pytest.mark.parametrize("method", UNEQUAL)
def test_unit_norm_is_the_same_function_with_codes_in_units_of_activations(method: str):
    model = with_random_biases(ZOO[method]())
    W_dec_nd = model.get_parameter("W_dec_nd")
    with torch.no_grad():
        W_dec_nd.mul_(noise(N, 1, seed=5).exp())
    unit = model.unit_norm()
    x_Bd = noise(20, 8, seed=3)
    torch.testing.assert_close(unit.get_parameter("W_dec_nd").norm(dim=1), torch.ones(N, dtype=torch.float64))
    torch.testing.assert_close(unit(x_Bd), model(x_Bd))
    torch.testing.assert_close(unit.encode(x_Bd), model.encode(x_Bd) * W_dec_nd.norm(dim=1))
    if method == "relu":  # whose penalty is weighted, so that it gains nothing
        none_dead = torch.zeros(N, dtype=torch.bool)
        torch.testing.assert_close(*[it.loss(x_Bd, 0.5, none_dead).total for it in (model, unit)])


def test_unit_norm_refuses_where_features_are_compared():
    model = TopK(5, 9, k=2)
    assert model.unit_norm() is model
    with torch.no_grad():
        model.W_dec_nd[0] *= 3
    with pytest.raises(ValueError, match="norms up to 3 and cannot be scaled"):
        model.unit_norm()


def test_an_error_of_zero_leaves_auxk_and_resampling_nothing_to_do():
    model = TopK(8, 24, k=24)
    x_Bd = model(noise(20, 8).float()).detach()
    zero = aux_loss(x_Bd, torch.zeros(20, 8), model.W_enc_nd, model.b_enc_n, model.W_dec_nd, torch.tensor([1, 2]))
    assert torch.isfinite(zero)
    rows = badly_rebuilt(x_Bd, x_Bd, 3, torch.Generator())
    assert rows.shape == (3,)


@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_what_is_logged_is_float32_under_bfloat16(make: Callable[[], TrainableDictionary]):
    with torch.autocast("cpu", torch.bfloat16):
        loss = make().loss(noise(20, 8).float(), 1.0, torch.arange(N) == 3)
    assert {tensor.dtype for tensor in (loss.total, loss.fired_n, *loss.parts.values())} == {torch.float32}


@pytest.mark.parametrize("skip", [False, True])
def test_a_folded_transcoder_maps_raw_inputs_to_raw_targets(skip: bool):
    model = with_random_biases(Transcoder(5, 9, k=3, d_out=4, skip=skip))
    assert isinstance(model, Transcoder)
    of_input, of_target = Normalization(noise(5), 2.5), Normalization(noise(4, seed=1), 0.3)
    folded = model.fold_normalizations(of_input, of_target)
    x_Bd = 3 * noise(20, 5, seed=2)
    torch.testing.assert_close(folded.encode(x_Bd), 0.3 * model.encode(of_input.apply(x_Bd)))
    torch.testing.assert_close(folded(x_Bd), of_target.invert(model(of_input.apply(x_Bd))))
    with pytest.raises(ValueError, match="use fold_normalizations"):
        model.fold_normalization(torch.zeros(5), 1.0)


def test_a_folded_crosscoder_rebuilds_layers_of_different_scale():
    model = with_random_biases(Crosscoder(6, 9, k=3, layers=2))
    assert isinstance(model, Crosscoder)
    each = [Normalization(noise(3), 2.5), Normalization(noise(3, seed=1), 40.0)]
    folded = model.fold_layers(each)
    x_Bd = noise(20, 6, seed=2)
    normalised = torch.cat([it.apply(part) for it, part in zip(each, x_Bd.split(3, dim=1), strict=True)], dim=1)
    torch.testing.assert_close(folded.encode(x_Bd), model.encode(normalised))
    rebuilt = torch.cat([it.invert(part) for it, part in zip(each, model(normalised).split(3, dim=1), strict=True)], 1)
    torch.testing.assert_close(folded(x_Bd), rebuilt)
    torch.testing.assert_close(model.layer_norms.square().sum(1), torch.ones(9, dtype=torch.float64))
    assert model.layer_directions.shape == (9, 2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchTopK(5, 9, k=10), "at most n_features=9"),
        (lambda: BatchTopK(5, 9, k=0), "must be positive"),
        (lambda: MatryoshkaBatchTopK(5, 9, k=2, widths=(4, 3, 9)), "must be positive and ascend"),
        (lambda: MatryoshkaBatchTopK(5, 9, k=2, widths=(3, 8)), "must be n_features=9"),
        (lambda: ReLU(5, 9, l1_coefficient=-1), "l1_coefficient=-1 must not be negative"),
        (lambda: Gated(5, 9, l1_coefficient=-1), "l1_coefficient=-1 must not be negative"),
        (lambda: JumpReLU(5, 9, coefficient=-1), "coefficient=-1 must not be negative"),
        (lambda: JumpReLU(5, 9, coefficient=1, penalty="l2"), "choose l0 or tanh"),  # pyright: ignore[reportArgumentType]
        (lambda: JumpReLU(5, 9, coefficient=1, target_l0=10), "at most 9 features"),
        (lambda: Transcoder(5, 9, k=10, d_out=4), "between 1 and n_features=9"),
        (lambda: Transcoder(5, 9, k=1, d_out=0), "d_out=0 must be at least 1"),
        (lambda: Crosscoder(5, 9, k=1, layers=2), "does not divide into layers=2"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_a_batch_with_every_feature_dead_is_rebuilt_as_the_bias_and_trains_on(make: Callable[[], TrainableDictionary]):
    model = make()
    for name in ("b_n", "b_enc_n", "b_mag_n"):
        if name in dict(model.named_parameters()):
            model.get_parameter(name).data.fill_(-1000.0)
    trainer = Trainer(model, TrainingConfig(steps=3, dead_after_rows=1))
    with torch.no_grad():  # the Trainer starts afresh
        for name in ("b_n", "b_enc_n", "b_mag_n"):
            if name in trainer.parameters:
                trainer.parameters[name].fill_(-1000.0)
    trainer.train(noise(20, 8, seed=seed).float() for seed in range(3))
    assert trainer.log[-1]["dead_fraction"] == 1
    assert trainer.log[-1]["l0"] == 0
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    x_Bd = noise(5, model.d_in).float()
    assert (model.encode(x_Bd) == 0).all()
