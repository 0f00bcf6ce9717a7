"""Activations to a dictionary: `sae_core`'s trainer, with checkpoints.

The order of the rows is a function of (seed, step), and a checkpoint holds the trainer's whole state and the
position in the stream: a run that was killed ends with the same bytes as one that was not.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch

from sae_core.architectures import TrainableDictionary, create
from sae_core.dictionary import CONFIG_FILE, Dictionary, load_dictionary
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
from tasks.errors import ExperimentError
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
    return train_dictionary(place, activations, hook_point, dictionary, training, compute, start=None)


# A step of its own, because an input of `train` that may be missing would be in the keys of all that was trained.
@step(kind="dictionary", code_version="1", resumable=True)
def train_further(
    place: Path,
    warm_start: ArtifactRef,
    activations: ArtifactRef,
    hook_point: str,
    dictionary: DictionarySpec,
    training: TrainingSpec,
    compute: Compute,
) -> dict[str, Any]:
    """The same from the weights of `warm_start`, a dictionary of the same method and shape, in place of random ones.

    The optimiser, the counters of dead features and the learning rate's schedule start afresh.
    """
    width = open_store(activations, "train").layout.hook_points[hook_point]
    check_warm_start(warm_start, hook_point, dictionary, width)
    start = load_dictionary(artifacts().path(warm_start))
    return train_dictionary(place, activations, hook_point, dictionary, training, compute, start)


def train_dictionary(
    place: Path,
    activations: ArtifactRef,
    hook_point: str,
    dictionary: DictionarySpec,
    training: TrainingSpec,
    compute: Compute,
    start: Dictionary | None,
) -> dict[str, Any]:
    """Fill the directory of a dictionary; `start` is one for raw activations, whose weights it begins with."""
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
        normalization = checkpoints.restore()
        if normalization is None:
            normalization = normalization_of(store, hook_point, training)
            if start is not None:
                begin_at(model, start, normalization)
        size = training.batch_size
        with Progress("train", steps * size, "rows", done=trainer.step_count * size) as progress:

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


def check_warm_start(warm_start: ArtifactRef, hook_point: str, spec: DictionarySpec, width: int) -> None:
    """Refuse a dictionary that training of this spec cannot begin with; its weights are not read.

    Raises:
        ExperimentError: another hook point, method, width or number of features.
        DamagedArtifact: it is gone or not whole.
    """
    store = artifacts()
    store.verify(warm_start)
    there = store.manifest(warm_start)["spec"].get("hook_point")
    if there is not None and there != hook_point:
        raise ExperimentError(
            f"{warm_start} is a dictionary of {there}: training at {hook_point} cannot begin with it."
        )
    config = json.loads((store.path(warm_start) / CONFIG_FILE).read_text())
    method, n, d_in = config["method"], config["arguments"]["n_features"], config["arguments"]["d_in"]
    if method != spec.method:
        raise ExperimentError(
            f"{warm_start} is a {method} dictionary, and {spec.method} is to be trained: it cannot begin with that."
        )
    if d_in != width:
        raise ExperimentError(
            f"{warm_start} is for activations of width {d_in}, and {hook_point} has {width}: it is of another model."
        )
    if n != n_features(spec, width):
        raise ExperimentError(
            f"{warm_start} has {n:,} features, and {spec.method} with expansion={spec.expansion:g} has "
            f"{n_features(spec, width):,}: training cannot begin with it. Keep the expansion, or train from scratch."
        )


def begin_at(model: TrainableDictionary, start: Dictionary, normalization: Normalization) -> None:
    """Give `model`, which sees normalised rows, the weights with which it does what `start` does for raw ones.

    Raises:
        ExperimentError: they are not of the same shapes.
    """
    weights = start.unfold_normalization(normalization.mean_d, normalization.scale).state_dict()
    shapes = [{name: list(tensor.shape) for name, tensor in of.items()} for of in (weights, model.state_dict())]
    if shapes[0] != shapes[1]:
        raise ExperimentError(f"training begins with weights of the shapes {shapes[0]}, and needs {shapes[1]}.")
    model.load_state_dict(weights)


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
