"""Runs of deployments have to be told their home: by default it would be a temporary directory of the worker."""

import os

from prefect.runtime import deployment

from storage.locations import is_remote, local_path
from tasks.errors import ExperimentError


def check_home() -> None:
    """Raise ExperimentError when this is a run of a deployment that nobody told where the home is, or not fully."""
    home = os.environ.get("SAEFLOW_HOME", "")
    if deployment.id and not (is_remote(home) or local_path(home).is_absolute()):
        what = f"its home, {home!r}, is not a whole path" if home else "it has no home"
        raise ExperimentError(
            f"this run would lose what it makes: {what}. Deploy with `saeflow deploy --home …`, or with $SAEFLOW_HOME "
            "set to a whole path where `prefect deploy` is called."
        )
