"""What a training tells others of its progress."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from sae_core import TopK, Trainer, TrainingConfig
from tasks.errors import ExperimentError
from tasks.loggers import check_loggers, open_sinks
from tests.sae_core.zoo import noise


def test_tensorboard_gets_every_defined_number_of_the_log(tmp_path: Path):
    with open_sinks(["tensorboard"], "0123456789", "topk", tmp_path, {"k": 2}) as sinks:
        trainer = Trainer(TopK(8, 24, k=2), TrainingConfig(steps=10, log_every=4), sinks)
        trainer.train(noise(20, 8, seed=seed).float() for seed in range(10))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "topk 01234567"))
    events.Reload()
    for name in ("loss", "fvu", "l0", "learning_rate"):
        seen = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in seen] == [4, 8, 10]
        assert [value for _, value in seen] == pytest.approx([row[name] for row in trainer.log])
    assert "parameters/text_summary" in events.Tags()["tensors"]


def test_no_logger_is_needed(tmp_path: Path):
    with open_sinks([], "0123", "topk", tmp_path, {}) as sinks:
        assert sinks == []
    assert not list(tmp_path.iterdir())


def test_a_logger_that_is_not_installed_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExperimentError, match=r"compute\.loggers names wandb: pip install wandb"):
        check_loggers(["wandb"])


def test_wandb_without_a_key_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "there")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(ExperimentError, match="set WANDB_API_KEY, or WANDB_MODE=offline"):
        check_loggers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_loggers(["wandb"])


def test_a_logger_that_fails_is_left_and_the_training_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with open_sinks(["tensorboard"], "0123", "topk", tmp_path, {}) as sinks:
        Trainer(TopK(8, 24, k=2), TrainingConfig(steps=2, log_every=1), sinks).train(
            noise(20, 8, seed=seed).float() for seed in range(2)
        )
    assert "tensorboard gets no" in caplog.text


def test_a_logger_that_fails_when_it_closes_ends_no_training_and_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def unreachable(self: SummaryWriter) -> None:
        raise OSError("the server is gone")

    monkeypatch.setattr(SummaryWriter, "close", unreachable)
    with open_sinks(["tensorboard"], "0123", "topk", tmp_path, {}) as sinks:
        sinks[0]({"step": 1, "loss": 0.5})
    assert "tensorboard may lack the end of the log: the server is gone" in caplog.text
    with pytest.raises(ValueError, match="the training's own"), open_sinks(["tensorboard"], "45", "a", tmp_path, {}):
        raise ValueError("the training's own")
