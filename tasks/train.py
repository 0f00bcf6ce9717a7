"""Activations to a dictionary: `sae_core`'s trainer, with checkpoints.

The order of the rows is a function of (seed, step), and a checkpoint holds the trainer's whole state and the
position in the stream: a run that was killed ends with the same bytes as one that was not.
"""

import logging
import time
from pathlib import Path
from typing import Any

import torch

from sae_core.architectures import TrainableDictionary, create
from sae_core.normalization import Normalization, fit_normalization
from sae_core.training import Trainer, TrainerState, TrainingConfig
from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from storage.batches import BatchStream
from storage.checkpoints import load_checkpoint, save_checkpoint
from storage.errors import StorageError
from storage.tables import write_table
from tasks.caching import artifacts, step
from tasks.compute import Compute
from tasks.loggers import open_sinks
from tasks.progress import Progress
from tasks.rows import open_store, rows_to_fit_on, stream
from tasks.specs import DictionarySpec, TrainingSpec, n_features

logger = logging.getLogger("saeflow.train")

SECONDS_BETWEEN_CHECKPOINTS = 1.0
CHECKPOINT_SHARE = 0.05  # of the time, at most


@step(kind="dictionary", code_version="1", resumable=True)
def train(
    place: Path,
    activations: ArtifactRef,
    hook_point: str,
    dictionary: DictionarySpec,
    training: TrainingSpec,
    compute: Compute,
) -> dict[str, Any]:
    """Train one dictionary; it takes raw activations, and `training.parquet` is its log."""
    compute.apply()
    store = open_store(activations, "train", compute.resident_bytes)
    steps = max(1, int(store.n_rows * training.epochs) // training.batch_size)
    model = untrained(dictionary, store.layout.hook_points[hook_point]).to(compute.device)
    name = f"{dictionary.method} {hook_point}"
    told = {"hook_point": hook_point, **dictionary.model_dump(), **training.model_dump()}
    with open_sinks(compute.loggers, place.stem, name, artifacts().scratch / "logs", told) as sinks:
        trainer = Trainer(model, training_config(dictionary, training, steps), sinks)
        batches = stream(store, hook_point, training.rows, training.batch_size, dictionary.seed, compute.device)
        checkpoints = Checkpoints(place / "scratch" / "checkpoint.safetensors", trainer, batches)
        normalization = checkpoints.restore() or normalization_of(store, hook_point, training)
        size = training.batch_size
        with Progress(f"train {name}", steps * size, "rows", done=trainer.step_count * size) as progress:

            def after_step(trainer: Trainer) -> None:
                progress.add(size)
                checkpoints.save_if_due(normalization)

            trainer.train(map(normalization.apply, batches), after_step)
            checkpoints.save(normalization)

    left_out = store.count_left_out(hook_point, training.rows)
    recorded = {"mean": normalization.mean_d.tolist(), "scale": normalization.scale}
    unit = model.cpu().unit_norm()
    folded = unit.fold_normalization(normalization.mean_d.cpu(), normalization.scale)
    folded.save(place, extra={"normalization": recorded})
    write_table(place / "training.parquet", trainer.log)
    return {"rows": trainer.row_count, "left_out": left_out}


def untrained(spec: DictionarySpec, d_in: int) -> TrainableDictionary:
    n = n_features(spec, d_in)
    return create(spec.method, d_in, n, **spec.arguments(n))


def training_config(spec: DictionarySpec, training: TrainingSpec, steps: int) -> TrainingConfig:
    """The trainer's settings: shares of the training become steps."""
    every = training.resample_every_rows
    return TrainingConfig(
        steps=steps,
        learning_rate=spec.learning_rate,
        lr_warmup_steps=int(steps * training.lr_warmup),
        lr_decay_steps=int(steps * training.lr_decay),
        lr_decay=training.lr_decay_shape,
        sparsity_warmup_steps=int(steps * training.sparsity_warmup),
        dead_after_rows=training.dead_after_rows,
        resample_every=None if every is None else max(1, every // training.batch_size),
        seed=spec.seed,
    )


def normalization_of(store: ActivationStore, hook_point: str, training: TrainingSpec) -> Normalization:
    if training.normalization == "none":
        return Normalization(torch.zeros(store.layout.hook_points[hook_point], dtype=torch.float64), 1.0)
    return fit_normalization(rows_to_fit_on(store, hook_point, training.rows))


class Checkpoints:
    """One checkpoint file, written so often that little is lost and so rarely that it costs little."""

    def __init__(self, path: Path, trainer: Trainer, batches: BatchStream) -> None:
        self.path, self.trainer, self.batches = path, trainer, batches
        self.last = time.monotonic()
        self.cost = 0.0

    def restore(self) -> Normalization | None:
        """Put trainer and stream where the last checkpoint left them; None if there is none."""
        try:
            saved = load_checkpoint(self.path)
            if saved is None:
                return None
            tensors, state = saved
            mean = tensors.pop("normalization.mean")
            self.trainer.load_state_dict(TrainerState(tensors, state["trainer"]))
        except (StorageError, ValueError) as error:  # damaged, or of a trainer with other settings
            logger.warning("%s Training starts over.", error)
            return None
        self.batches.position = state["position"]
        return Normalization(mean, state["scale"])

    def save_if_due(self, normalization: Normalization) -> None:
        if time.monotonic() - self.last >= max(SECONDS_BETWEEN_CHECKPOINTS, self.cost / CHECKPOINT_SHARE):
            self.save(normalization)

    def save(self, normalization: Normalization) -> None:
        started = time.monotonic()
        tensors, state = self.trainer.state_dict()
        save_checkpoint(
            self.path,
            {**tensors, "normalization.mean": normalization.mean_d},
            {
                "trainer": state,
                "position": self.batches.position,
                "scale": normalization.scale,
            },
        )
        self.last = time.monotonic()
        self.cost = self.last - started
