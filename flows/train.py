"""An experiment as far as its dictionaries."""

from typing import Any

from prefect import flow

from flows.experiment import walk
from flows.parameters import ExperimentConfig
from tasks.errors import ExperimentError


@flow(name="train", flow_run_name="{config.name}", validate_parameters=True)
def train(config: ExperimentConfig, hook_points: list[str] | None = None) -> dict[str, Any]:
    """Train an experiment's dictionaries and fit its baselines, and make what they need if it is not there.

    Args:
        config: the experiment whose dictionaries are wanted.
        hook_points: some of the experiment's hook points, to train only there; empty for all.
    """
    unknown = set(hook_points or ()) - set(config.hook_points)
    if unknown:
        raise ExperimentError(
            f"hook_points: {', '.join(sorted(unknown))} is none of the experiment's ({', '.join(config.hook_points)})."
        )
    return walk(config, until="train", hook_points=hook_points or None)
