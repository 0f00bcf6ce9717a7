"""An experiment as far as its activations."""

from typing import Any

from prefect import flow

from flows.experiment import walk
from flows.parameters import ExperimentConfig


@flow(name="harvest", flow_run_name="{config.name}", validate_parameters=True)
def harvest(config: ExperimentConfig) -> dict[str, Any]:
    """Tokenise the corpus and harvest the activations of all hook points; an experiment then finds them.

    Args:
        config: the experiment whose activations are wanted.
    """
    return walk(config, until="harvest")
