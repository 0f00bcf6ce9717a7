"""What the commands share: options, the environment they set, the home they open, and a clean standard output."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from storage.artifacts import AnyStore, ArtifactStore
from storage.locations import open_location

Experiment = Annotated[str, typer.Argument(metavar="PRESET|FILE.yaml", help="A preset's name or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=value", help="Change a parameter; may be repeated.")
]
Home = Annotated[
    str | None,
    typer.Option(
        help="Where everything is kept: a directory, s3://…, gs://… or az://…. Default: $SAEFLOW_HOME, or ./runs.",
        show_default=False,
    ),
]


def home_uri() -> str:
    """A directory's path, or where the home is in an object store."""
    return os.environ["SAEFLOW_HOME"]


def open_home(home: str | None) -> AnyStore:
    """The artifacts under the home that a command was given, without waiting for Prefect."""
    prepare_environment(home)
    return ArtifactStore.from_environment()


def prepare_environment(home: str | None) -> None:
    """Set what Prefect and the processes of a pool read from the environment, before Prefect is imported."""
    os.environ["SAEFLOW_HOME"] = open_location(home or os.environ.get("SAEFLOW_HOME") or "runs").uri
    os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(ArtifactStore.from_environment().scratch / "records")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    # The server that Prefect starts for a run without one needs longer than its default 20 s on a busy machine.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' progress bars; saeflow prints its own


@contextlib.contextmanager
def stdout_kept_for_the_result() -> Iterator[None]:
    """Send whatever libraries and child processes print to stderr, so that stdout holds the result alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
