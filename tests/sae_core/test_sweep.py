"""Several dictionaries in one pass: each as if it had been alone."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sae_core import TopK, Trainer, TrainingConfig
from sae_core.sweep import train_together
from tests.sae_core.zoo import ZOO, D, N

CONFIG = TrainingConfig(steps=12, dead_after_rows=100, resample_every=5, log_every=4)


def batches(start: int = 0, steps: int = 12) -> Iterator[Tensor]:
    for step in range(start, steps):
        yield torch.randn(64, D, generator=torch.Generator().manual_seed(step))


def test_every_dictionary_of_a_sweep_is_bit_identical_to_training_it_alone():
    together = {name: Trainer(make(), CONFIG) for name, make in ZOO.items()}
    seen = []
    assert train_together(together, batches(), seen.append) == {}
    assert seen == list(range(1, 13))
    for name, make in ZOO.items():
        alone = Trainer(make(), CONFIG)
        alone.train(batches())
        (ours, our_state), (theirs, their_state) = together[name].state_dict(), alone.state_dict()
        assert our_state == their_state
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_trainings_of_different_lengths_and_seeds_share_a_pass():
    configs = {"short": TrainingConfig(steps=4), "long": TrainingConfig(steps=12, seed=1)}
    trainers = {name: Trainer(TopK(D, N, k=2), config) for name, config in configs.items()}
    train_together(trainers, batches())
    assert {name: trainer.step_count for name, trainer in trainers.items()} == {"short": 4, "long": 12}


def test_a_sweep_goes_on_from_where_it_was_after_its_shortest_training_ended():
    configs = {"short": TrainingConfig(steps=4), "long": TrainingConfig(steps=12, seed=1)}

    def made() -> dict[str, Trainer]:
        return {name: Trainer(TopK(D, N, k=2), config) for name, config in configs.items()}

    undisturbed, interrupted, resumed = made(), made(), made()
    train_together(undisturbed, batches())
    with pytest.raises(ValueError, match="ended after step 8, and long need more"):
        train_together(interrupted, batches(0, 8))
    for name, trainer in interrupted.items():
        resumed[name].load_state_dict(trainer.state_dict())
    train_together(resumed, batches(8))
    for name, trainer in undisturbed.items():
        expected = trainer.state_dict().tensors
        assert all(torch.equal(tensor, expected[key]) for key, tensor in resumed[name].state_dict().tensors.items())
    assert train_together(resumed, iter([])) == {}


def test_a_training_that_diverges_does_not_take_the_others_with_it():
    trainers = {"good": Trainer(TopK(D, N, k=2), CONFIG), "bad": Trainer(TopK(D, N, k=2), CONFIG)}
    with torch.no_grad():
        trainers["bad"].parameters["W_enc_nd"].fill_(float("nan"))
    errors = train_together(trainers, batches())
    assert list(errors) == ["bad"]
    assert trainers["good"].step_count == 12
    with pytest.raises(ValueError, match="no dictionary of the sweep could be trained: activations hold NaN"):
        train_together({"one": Trainer(TopK(D, N, k=2), CONFIG)}, iter([torch.full((4, D), float("nan"))]))


def test_what_cannot_be_swept_is_refused():
    ahead = Trainer(TopK(D, N, k=2), CONFIG)
    ahead.step(next(batches()))
    with pytest.raises(ValueError, match=r"all at the same step, got steps \[0, 1\]"):
        train_together({"ahead": ahead, "new": Trainer(TopK(D, N, k=2), CONFIG)}, batches())
    with pytest.raises(ValueError, match="no trainers has nothing"):
        train_together({}, batches())
    with pytest.raises(ValueError, match="ended after step 7, and one need more"):
        train_together({"one": Trainer(TopK(D, N, k=2), CONFIG)}, batches(0, 7))
