"""Training layer by layer on a work pool: each hook point is a run of a deployment of the flow `train`.

Such a run finds tokens and activations made, trains the dictionaries of its hook point, and ends. They are then found
in the home, which the work pool must share. The runs bear an idempotency key of this flow run and its attempt: asked
for again they are not started twice, and a retry starts again what failed.
"""

import time
from collections.abc import Sequence

from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from flows.parameters import ExperimentConfig
from flows.stages import Job
from tasks.errors import ExperimentError

SECONDS_BETWEEN_LOOKS = 2.0


def train_on_deployment(config: ExperimentConfig, jobs: Sequence[Job]) -> None:
    """Have the training jobs that are not made yet made by runs of `compute.train_deployment`, one a hook point.

    Raises ExperimentError when there is no such deployment, or when one of its runs does not complete.
    """
    name = config.compute.train_deployment
    if name is None:
        return
    hook_points = list(dict.fromkeys(job.inputs["hook_point"] for job in jobs if job.find() is None))
    alone = config.model_copy(
        update={"compute": config.compute.model_copy(update={"train_deployment": None}), "invalidate_from": None}
    )
    runs = {}
    for hook_point in hook_points:
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
    failed = []
    with get_client(sync_client=True) as client:
        for hook_point, run in runs.items():
            while not (state := client.read_flow_run(run.id).state) or not state.is_final():
                time.sleep(SECONDS_BETWEEN_LOOKS)
            if not state.is_completed():
                failed.append(f"{hook_point}: {state.name}, {state.message}")
    if failed:
        raise ExperimentError(f"runs of {name} did not complete: {'; '.join(failed)}")
