"""Where a training's log goes while it runs, beside `training.parquet`, which every dictionary has at the end.

TensorBoard, Weights & Biases and MLflow are asked for by name in `compute.loggers`; none of them is needed, and what
they are told never enters an artifact. Addresses and keys come from their own environment variables.
"""

import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sae_core.training import LogRow, LogSink
from tasks.errors import ExperimentError

logger = logging.getLogger("saeflow.loggers")

Logger = Literal["tensorboard", "wandb", "mlflow"]


def check_loggers(loggers: Sequence[Logger]) -> None:
    """Raises ExperimentError for a logger whose package or key is not there."""
    missing = [name for name in loggers if importlib.util.find_spec(name) is None]
    if missing:
        raise ExperimentError(f"compute.loggers names {', '.join(missing)}: pip install {' '.join(missing)}")
    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if "wandb" in loggers and not (offline or "WANDB_API_KEY" in os.environ):
        raise ExperimentError("compute.loggers names wandb: set WANDB_API_KEY, or WANDB_MODE=offline")


@contextmanager
def open_sinks(
    loggers: Sequence[Logger], key: str, run: str, folder: Path, parameters: dict[str, Any]
) -> Iterator[list[LogSink]]:
    """One sink per logger, all closed at the end. `folder` is for those that write files; a training that goes on from
    a checkpoint goes on under the same `key`.

    A logger that fails, to be reached, say, is reported once and left: no training ends for its sake.
    """
    known = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
    with ExitStack() as stack:
        sinks: list[LogSink] = []
        for name in loggers:
            try:
                context = known[name](key, run, folder / name, parameters)
                sinks.append(_patient(name, context.__enter__()))
                stack.push(partial(_close, name, context))
            except Exception as error:
                logger.warning("%s gets no log: %s", name, error)
        yield sinks


def _close(name: str, context: AbstractContextManager[LogSink], *raised: Any) -> None:
    """Close a logger; None, so that what ended the training goes on to be raised."""
    try:
        context.__exit__(*raised)
    except Exception as error:
        if error is not raised[1]:
            logger.warning("%s may lack the end of the log: %s", name, error)


def _patient(name: str, sink: LogSink) -> LogSink:
    failed = False

    def patient(row: LogRow) -> None:
        nonlocal failed
        if failed:
            return
        try:
            sink(row)
        except Exception as error:
            failed = True
            logger.warning("%s gets no more of the log: %s", name, error)

    return patient


@contextmanager
def _tensorboard(key: str, run: str, folder: Path, parameters: dict[str, Any]) -> Iterator[LogSink]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / f"{run} {key[:8]}") as writer:
        writer.add_text("parameters", "\n".join(f"    {name}: {value}" for name, value in parameters.items()))

        def sink(row: LogRow) -> None:
            for name, value in _numbers(row).items():
                writer.add_scalar(name, value, _step(row))

        yield sink


@contextmanager
def _wandb(key: str, run: str, folder: Path, parameters: dict[str, Any]) -> Iterator[LogSink]:
    import wandb  # pyright: ignore[reportMissingImports]

    folder.mkdir(parents=True, exist_ok=True)
    with wandb.init(project="saeflow", id=key, resume="allow", name=run, dir=folder, config=parameters) as opened:
        yield lambda row: opened.log(_numbers(row), step=_step(row))


@contextmanager
def _mlflow(key: str, run: str, folder: Path, parameters: dict[str, Any]) -> Iterator[LogSink]:
    import mlflow  # pyright: ignore[reportMissingImports]

    if "MLFLOW_TRACKING_URI" not in os.environ:
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment("saeflow")
    before = mlflow.search_runs(filter_string=f"tags.saeflow_key = '{key}'", output_format="list")
    with mlflow.start_run(run_id=before[0].info.run_id if before else None, run_name=run, tags={"saeflow_key": key}):
        mlflow.log_params(parameters)
        yield lambda row: mlflow.log_metrics(_numbers(row), step=_step(row))


def _numbers(row: LogRow) -> dict[str, float]:
    return {name: value for name, value in row.items() if value is not None and name != "step"}


def _step(row: LogRow) -> int:
    return int(row["step"] or 0)
