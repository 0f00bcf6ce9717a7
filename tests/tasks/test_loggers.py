"""What a training tells others of its progress."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sae_core import TopK, Trainer, TrainingConfig
from tasks.errors import ExperimentError
from tasks.loggers import check_installed, open_sinks
from tests.sae_core.zoo import noise


def test_tensorboard_gets_every_defined_number_of_the_log(tmp_path: Path):
    with open_sinks(["tensorboard"], "topk", tmp_path, {"k": 2}) as sinks:
        trainer = Trainer(TopK(8, 24, k=2), TrainingConfig(steps=10, log_every=4), sinks)
        trainer.train(noise(20, 8, seed=seed).float() for seed in range(10))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "topk"))
    events.Reload()
    for name in ("loss", "fvu", "l0", "learning_rate"):
        seen = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in seen] == [4, 8, 10]
        assert [value for _, value in seen] == pytest.approx([row[name] for row in trainer.log])
    assert "parameters/text_summary" in events.Tags()["tensors"]


def test_no_logger_is_needed(tmp_path: Path):
    with open_sinks([], "topk", tmp_path, {}) as sinks:
        assert sinks == []
    assert not list(tmp_path.iterdir())


def test_a_logger_that_is_not_installed_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExperimentError, match=r"compute\.loggers names wandb: pip install wandb"):
        check_installed(["wandb"])
