"""Runs of deployments have to be told their home: by default it would be a temporary directory of the worker."""

import os

from prefect.runtime import deployment

from tasks.errors import ExperimentError


def check_home() -> None:
    """Raise ExperimentError when this is a run of a deployment that nobody told where the home is."""
    if deployment.id and not os.environ.get("SAEFLOW_HOME"):
        raise ExperimentError(
            "this run would lose what it makes: it has no home. Deploy with `saeflow deploy --home …`, or with "
            "$SAEFLOW_HOME set where `prefect deploy` is called."
        )
