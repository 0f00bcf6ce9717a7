"""An experiment as far as its evaluations."""

from typing import Any

from prefect import flow

from flows.experiment import walk
from flows.parameters import ExperimentConfig


@flow(name="evaluate", flow_run_name="{config.name}", validate_parameters=True)
def evaluate(config: ExperimentConfig) -> dict[str, Any]:
    """Evaluate an experiment's dictionaries, and make what they need if it is not there.

    Args:
        config: the experiment whose evaluations are wanted.
    """
    return walk(config, until="evaluate")
