"""Training layer by layer on a work pool: each hook point is a run of a deployment of the flow `train`.

Such a run finds tokens and activations made, trains the dictionaries of its hook point, and ends. They are then found
in the home, which the work pool must share. The runs bear an idempotency key of this flow run and its attempt: asked
for again they are not started twice, and a retry starts again what failed.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from flows.automations import SECONDS_BEFORE_RESUME
from flows.parameters import ExperimentConfig
from flows.stages import Job
from tasks.caching import artifacts
from tasks.errors import ExperimentError

SECONDS_BETWEEN_LOOKS = 2.0

SECONDS_UNTIL_GIVEN_UP = 3 * SECONDS_BEFORE_RESUME
"""A run that crashed longer ago than this is not taken up again any more."""


def train_on_deployment(config: ExperimentConfig, jobs: Sequence[Job]) -> None:
    """Have the training jobs that are not made yet made by runs of `compute.train_deployment`, one a hook point.

    Raises ExperimentError when there is no such deployment, when one of its runs does not complete, or when what they
    made is not found.
    """
    name = config.compute.train_deployment
    if name is None:
        return
    handed_out = [job for job in jobs if job.find() is None]
    alone = config.model_copy(
        update={"compute": config.compute.model_copy(update={"train_deployment": None}), "invalidate_from": None}
    )
    runs: dict[str, Any] = {}
    for hook_point in dict.fromkeys(job.inputs["hook_point"] for job in handed_out):
        try:
            runs[hook_point] = run_deployment(
                name,
                parameters={"config": alone.model_dump(mode="json"), "hook_points": [hook_point]},
                timeout=0,
                flow_run_name=f"{config.name} {hook_point}",
                idempotency_key=f"{flow_run.id}-{flow_run.run_count}-{hook_point}",
            )
        except ObjectNotFound as error:
            raise ExperimentError(
                f"compute.train_deployment: the Prefect server has no deployment {name!r}. `saeflow deploy` makes "
                "train/quickstart; `prefect deployment ls` lists what there is."
            ) from error
    ended = {hook_point: _end_of(run.id) for hook_point, run in runs.items()}
    failed = [f"{place}: {state.name}, {state.message}" for place, state in ended.items() if not state.is_completed()]
    if failed:
        raise ExperimentError(f"runs of {name} did not complete: {'; '.join(failed)}")
    missing = [job.name for job in handed_out if job.find() is None]
    if missing:
        raise ExperimentError(
            f"runs of {name} completed, and {'; '.join(missing)} cannot be found in {artifacts().uri}. Its work pool "
            "must see this home. If it does, its machines are different: model.dtype auto may be another one there, so "
            "set it."
        )


def _end_of(run: UUID) -> State:
    """Wait for the state that a run stays in. A crashed one is taken up again by itself (flows.automations)."""
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(run).state
            if state is not None and is_the_end(state):
                return state
            time.sleep(SECONDS_BETWEEN_LOOKS)


def is_the_end(state: State) -> bool:
    long_ago = datetime.now(UTC) - timedelta(seconds=SECONDS_UNTIL_GIVEN_UP)
    return state.timestamp < long_ago if state.is_crashed() else state.is_final()
