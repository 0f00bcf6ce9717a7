"""Where a training's log goes while it runs, beside `training.parquet`, which every dictionary has at the end.

TensorBoard, Weights & Biases and MLflow are asked for by name in `compute.loggers`; none of them is needed, and what
they are told never enters an artifact. Addresses and keys come from their own environment variables.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from sae_core.training import LogRow, LogSink
from tasks.errors import ExperimentError

Logger = Literal["tensorboard", "wandb", "mlflow"]


def check_installed(loggers: Sequence[Logger]) -> None:
    """Raises ExperimentError for a logger whose package is not there."""
    missing = [name for name in loggers if importlib.util.find_spec(name) is None]
    if missing:
        raise ExperimentError(f"compute.loggers names {', '.join(missing)}: pip install {' '.join(missing)}")


@contextmanager
def open_sinks(
    loggers: Sequence[Logger], run: str, folder: Path, parameters: dict[str, Any]
) -> Iterator[list[LogSink]]:
    """One sink per logger, all closed at the end; `folder` is for those that write files."""
    with ExitStack() as stack:
        opened = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
        yield [stack.enter_context(opened[name](run, folder / name, parameters)) for name in loggers]


@contextmanager
def _tensorboard(run: str, folder: Path, parameters: dict[str, Any]) -> Iterator[LogSink]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / run) as writer:
        writer.add_text("parameters", "\n".join(f"    {name}: {value}" for name, value in parameters.items()))

        def sink(row: LogRow) -> None:
            for name, value in _numbers(row).items():
                writer.add_scalar(name, value, _step(row))

        yield sink


@contextmanager
def _wandb(run: str, folder: Path, parameters: dict[str, Any]) -> Iterator[LogSink]:
    import wandb  # pyright: ignore[reportMissingImports]

    folder.mkdir(parents=True, exist_ok=True)
    with wandb.init(project="saeflow", name=run, dir=folder, config=parameters) as session:
        yield lambda row: session.log(_numbers(row), step=_step(row))


@contextmanager
def _mlflow(run: str, folder: Path, parameters: dict[str, Any]) -> Iterator[LogSink]:
    import mlflow  # pyright: ignore[reportMissingImports]

    mlflow.set_experiment("saeflow")
    with mlflow.start_run(run_name=run):
        mlflow.log_params(parameters)
        yield lambda row: mlflow.log_metrics(_numbers(row), step=_step(row))


def _numbers(row: LogRow) -> dict[str, float]:
    return {name: value for name, value in row.items() if value is not None and name != "step"}


def _step(row: LogRow) -> int:
    return int(row["step"] or 0)
