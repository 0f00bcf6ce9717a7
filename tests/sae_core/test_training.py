"""The trainer: exact, resumable, and clear about what it cannot train on."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_core import JumpReLU, TiedReLU, TopK, TrainableDictionary, Trainer, TrainerState, TrainingConfig, Transcoder
from tests.sae_core.zoo import ZOO, D, N

STEPS, BATCH = 23, 64

ARCHITECTURES = ZOO
each_architecture = pytest.mark.parametrize("make", ARCHITECTURES.values(), ids=ARCHITECTURES)

# Every schedule in force, and dead features (so AuxK and resampling) from the first few steps on.
CONFIG = TrainingConfig(
    steps=STEPS,
    lr_warmup_steps=4,
    lr_decay_steps=5,
    sparsity_warmup_steps=6,
    dead_after_rows=3 * BATCH,
    resample_every=7,
    log_every=5,
    seed=3,
)


def batches(start: int = 0, steps: int = STEPS) -> Iterator[Tensor]:
    """The data is a function of the step, as a resumed run needs it to be."""
    for step in range(start, steps):
        x_Bd = torch.randn(BATCH, D, generator=torch.Generator().manual_seed(step))
        yield x_Bd * torch.linspace(2, 0.1, D)


def trained(make: Callable[[], TrainableDictionary], config: TrainingConfig = CONFIG) -> Trainer:
    trainer = Trainer(make(), config)
    trainer.train(batches())
    return trainer


@cache
def undisturbed(method: str, compute_dtype: str) -> TrainerState:
    return trained(ARCHITECTURES[method], replace(CONFIG, compute_dtype=compute_dtype)).state_dict()


def through_files(saved: TrainerState, directory: Path) -> TrainerState:
    """As a checkpoint on disk would bring it back."""
    save_file(saved.tensors, directory / "state.safetensors")
    (directory / "state.json").write_text(json.dumps(saved.state, allow_nan=False))
    return TrainerState(load_file(directory / "state.safetensors"), json.loads((directory / "state.json").read_text()))


def assert_same(a: TrainerState, b: TrainerState) -> None:
    assert a.state == b.state
    assert a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


@pytest.mark.parametrize("method", ARCHITECTURES)
@settings(max_examples=5, deadline=None)
@given(killed_at=st.integers(0, STEPS), compute_dtype=st.sampled_from(["auto", "float32"]))
def test_a_run_resumed_at_any_step_ends_bit_identical(tmp_path_factory, method: str, killed_at: int, compute_dtype):
    make, config = ARCHITECTURES[method], replace(CONFIG, compute_dtype=compute_dtype)
    killed = Trainer(make(), config)
    for x_Bd in batches(0, killed_at):
        killed.step(x_Bd)
    saved = through_files(killed.state_dict(), tmp_path_factory.mktemp("checkpoint"))

    resumed = Trainer(make(), config)
    resumed.load_state_dict(saved)
    resumed.train(batches(killed_at))
    assert_same(resumed.state_dict(), undisturbed(method, compute_dtype))


@each_architecture
def test_a_saved_state_does_not_change_under_later_steps(make, tmp_path: Path):
    trainer = Trainer(make(), CONFIG)
    data = batches()
    for _ in range(7):
        trainer.step(next(data))
    saved = trainer.state_dict()
    kept = through_files(saved, tmp_path)
    trainer.train(data)
    assert_same(saved, kept)


@each_architecture
def test_the_same_seed_gives_the_same_bits_and_another_does_not(make):
    first, again = trained(make), trained(make)
    assert_same(first.state_dict(), again.state_dict())
    other = trained(make, replace(CONFIG, seed=4))
    assert not torch.equal(first.dictionary.directions, other.dictionary.directions)


@each_architecture
def test_training_lowers_the_loss_and_the_log_says_so(make):
    trainer = trained(make)
    assert [row["step"] for row in trainer.log] == [5, 10, 15, 20, 23]
    assert [row["rows"] for row in trainer.log] == [step * BATCH for step in (5, 10, 15, 20, 23)]
    assert {"loss", "mse", "fvu", "l0", "l1", "dead_fraction", "learning_rate"} <= set(trainer.log[0])
    assert trainer.log[-1]["mse"] < trainer.log[0]["mse"]
    assert json.loads(json.dumps(trainer.log, allow_nan=False)) == trainer.log


def test_a_row_of_the_log_is_the_mean_over_its_steps():
    def log(every: int) -> list[dict]:
        return trained(ARCHITECTURES["topk"], replace(CONFIG, steps=23, log_every=every)).log

    singly, grouped = log(1), log(5)
    for name in ("loss", "fvu", "l0", "l1", "aux"):
        assert grouped[1][name] == pytest.approx(sum(row[name] for row in singly[5:10]) / 5)
        assert grouped[-1][name] == pytest.approx(sum(row[name] for row in singly[20:23]) / 3)


def test_features_that_have_not_fired_for_long_enough_are_dead():
    trainer = Trainer(TopK(D, N, k=2), TrainingConfig(steps=10, dead_after_rows=2 * BATCH, log_every=1))
    with torch.no_grad():
        trainer.dictionary.get_parameter("b_enc_n")[:6] = -1000
    trainer.train(batches(0, 10))
    assert trainer.log[0]["dead_fraction"] == 0
    assert (trainer.rows_since_fired_n[:6] == 10 * BATCH).all()
    dead = (trainer.rows_since_fired_n >= 2 * BATCH).double().mean()
    assert trainer.log[-1]["dead_fraction"] == dead >= 6 / N
    assert trainer.log[-1]["aux"] > 0


def test_the_learning_rate_is_a_trapezium_that_never_reaches_zero_before_the_end():
    config = TrainingConfig(steps=10, learning_rate=1.0, lr_warmup_steps=3, lr_decay_steps=4)
    rates = [config.learning_rate_at(step) for step in range(11)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    assert [TrainingConfig(steps=3).learning_rate_at(step) for step in range(3)] == [1e-3] * 3


def test_the_cosine_decay_falls_slowly_then_fast_then_slowly():
    config = TrainingConfig(steps=9, learning_rate=1.0, lr_decay_steps=3, lr_decay="cosine")
    rates = [config.learning_rate_at(step) for step in range(10)]
    assert rates == pytest.approx([1] * 6 + [(2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0])


@each_architecture
def test_resampled_features_point_at_rows_of_the_batch_with_fresh_moments(make):
    """Twelve rows are alike and one is not: it is rebuilt worst, and the dead features start there."""
    trainer = Trainer(
        make(), TrainingConfig(steps=9, resample_every=4, dead_after_rows=3 * 13, compute_dtype="float32")
    )
    odd_d = torch.tensor([0.0, 30.0, 0.0, 30.0, 0.0, 30.0, 0.0, 30.0])
    x_Bd = torch.cat([torch.linspace(1, 2, D).expand(12, D) + torch.randn(12, D) / 100, odd_d[None]])
    for _ in range(3):
        trainer.step(x_Bd)
    dead = torch.arange(5)
    trainer.rows_since_fired_n[dead] = 1000
    for name, bias in trainer.parameters.items():
        if name in ("b_n", "b_enc_n"):
            bias.data[dead] = -1000.0
    trainer.step(x_Bd)
    assert (trainer.rows_since_fired_n[dead] == 0).all()
    for name, parameter in trainer.parameters.items():
        if name.endswith(("_n", "_nd")):
            assert (trainer.optimizer.state[parameter]["exp_avg"][dead] == 0).all()
    model = trainer.dictionary
    if not isinstance(model, Transcoder):  # which writes the error and reads the input
        center_d = model.center_d if isinstance(model, TiedReLU) else model.get_parameter("b_dec_d")
        toward_d = torch.nn.functional.normalize(odd_d - center_d, dim=0)
        assert ((model.directions[dead] @ toward_d) > 0.99).all()
    reads_nd = trainer.parameters["W_nd" if isinstance(model, TiedReLU) else "W_enc_nd"]
    assert (reads_nd[dead] @ odd_d[: model.d_in] > 0).all()


def test_a_sink_sees_every_row_of_the_log():
    seen: list[dict] = []
    trainer = Trainer(TopK(D, N, k=2), CONFIG, sinks=[seen.append])
    trainer.train(batches())
    assert seen == trainer.log


def test_jumprelu_comes_to_the_l0_it_is_told():
    model = JumpReLU(D, N, coefficient=1.0, target_l0=3)
    trainer = Trainer(model, TrainingConfig(steps=600, learning_rate=1e-2, lr_decay_steps=200))
    trainer.train(batches(0, 600))
    x_Bd = torch.cat(list(batches(600, 610)))
    assert (model.encode(x_Bd) > 0).sum(1).double().mean().item() == pytest.approx(3, rel=0.15)


def test_the_sparsity_penalty_warms_up_linearly():
    config = TrainingConfig(steps=10, sparsity_warmup_steps=3)
    assert [config.sparsity_at(step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]


def test_a_large_gradient_is_clipped_to_the_norm_asked_for():
    trainer = Trainer(TiedReLU(D, N, alpha=0), TrainingConfig(steps=1, gradient_clip=0.5))
    trainer.step(next(batches()) * 1000)
    gradients = torch.cat([parameter.grad.flatten() for parameter in trainer.dictionary.parameters()])
    assert gradients.norm().item() == pytest.approx(0.5, rel=1e-3)


def test_parameters_stay_float32_under_bfloat16_compute():
    trainer = trained(ARCHITECTURES["tied_relu"], replace(CONFIG, compute_dtype="bfloat16"))
    assert {parameter.dtype for parameter in trainer.dictionary.parameters()} == {torch.float32}
    assert trainer.log[-1]["mse"] == pytest.approx(trained(ARCHITECTURES["tied_relu"]).log[-1]["mse"], rel=0.02)


@each_architecture
def test_half_precision_rows_are_taken_as_they_come_and_left_as_they_are(make):
    trainer = Trainer(make(), CONFIG)
    x_Bd = next(batches()).half()
    before = x_Bd.clone()
    trainer.step(x_Bd)
    assert torch.equal(x_Bd, before)


def test_on_step_is_called_after_every_step():
    seen = []
    Trainer(TopK(D, N, k=2), CONFIG).train(batches(), lambda trainer: seen.append(trainer.step_count))
    assert seen == list(range(1, STEPS + 1))


@each_architecture
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_named_with_its_step_and_does_no_harm(make, bad: float):
    trainer = Trainer(make(), CONFIG)
    data = list(batches())
    data[4][13, 2] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity at step 5 of 23: 1 rows of the batch, first row 13"):
        trainer.train(iter(data))
    assert trainer.step_count == 4
    assert all(torch.isfinite(parameter).all() for parameter in trainer.dictionary.parameters())


def test_a_loss_that_overflows_on_finite_rows_says_so():
    with pytest.raises(ValueError, match=r"loss is NaN or infinite at step 1 of 23 on activations of norm up to"):
        Trainer(TiedReLU(D, N, alpha=0), CONFIG).step(torch.full((4, D), 1e30))


def test_an_empty_iterator_and_one_that_ends_early_are_told_apart():
    with pytest.raises(ValueError, match=r"ended after step 0 of 23: there were none"):
        Trainer(TopK(D, N, k=2), CONFIG).train(iter([]))
    with pytest.raises(ValueError, match=r"ended after step 7 of 23$"):
        Trainer(TopK(D, N, k=2), CONFIG).train(batches(0, 7))
    with pytest.raises(ValueError, match="batch of step 1 has no rows"):
        Trainer(TopK(D, N, k=2), CONFIG).step(torch.zeros(0, D))


@each_architecture
def test_rows_of_the_wrong_width_are_refused(make):
    with pytest.raises(ValueError, match=r"(width 8|4 \+ 4 wide), got shape \[4, 9\]"):
        Trainer(make(), CONFIG).step(torch.zeros(4, 9))


def test_a_checkpoint_of_another_config_is_refused_by_the_fields_that_differ():
    saved = trained(ARCHITECTURES["topk"]).state_dict()
    other = Trainer(TopK(D, N, k=2), replace(CONFIG, seed=4, learning_rate=1e-2))
    with pytest.raises(ValueError, match="another learning_rate, seed"):
        other.load_state_dict(saved)
    with pytest.raises(ValueError, match="another k"):
        Trainer(TopK(D, N, k=3), CONFIG).load_state_dict(saved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 5, "learning_rate": 0.0}, "learning_rate=0.0 must be positive"),
        ({"steps": 5, "gradient_clip": 0.0}, "gradient_clip=0.0 must be positive"),
        ({"steps": 5, "lr_warmup_steps": -1}, "must not be negative"),
        ({"steps": 5, "resample_every": 0}, "resample_every=0 must be at least 1"),
        ({"steps": 5, "lr_decay": "sudden"}, "choose linear or cosine"),
        ({"steps": 5, "lr_warmup_steps": 3, "lr_decay_steps": 3}, "do not fit into steps=5"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**arguments)


def test_an_unknown_compute_dtype_lists_those_that_exist():
    with pytest.raises(ValueError, match="choose auto, bfloat16 or float32"):
        Trainer(TopK(D, N, k=2), TrainingConfig(steps=1, compute_dtype="fp8"))  # pyright: ignore[reportArgumentType]
