"""What runs the tasks of an experiment side by side: processes of this machine, or a Dask or Ray cluster."""

from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner

from tasks.errors import ExperimentError
from tasks.specs import ComputeSpec


def task_runner(compute: ComputeSpec, workers: int) -> Any:
    """The Prefect task runner for `workers` processes, one task each at a time.

    Raises:
        ExperimentError: its package is not installed.
    """
    try:
        match compute.runner:
            case "processes":
                return ProcessPoolTaskRunner(max_workers=workers)
            case "dask":
                from prefect_dask.task_runners import DaskTaskRunner

                if compute.address:
                    return DaskTaskRunner(address=compute.address)
                # Processes, because torch's settings are those of a process; no dashboard, which wants a fixed port.
                local = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
                return DaskTaskRunner(cluster_kwargs=local)
            case "ray":
                from prefect_ray.task_runners import RayTaskRunner

                if compute.address:
                    return RayTaskRunner(address=compute.address)
                return RayTaskRunner(init_kwargs={"num_cpus": workers, "include_dashboard": False})
    except ImportError as error:
        raise ExperimentError(
            f"compute.runner is {compute.runner}, which is not installed ({error}). Install it: "
            "pip install 'saeflow[distributed]'"
        ) from error
