"""What runs the tasks of an experiment side by side: processes of this machine, or a Dask or Ray cluster."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from prefect.context import FlowRunContext
from prefect.task_runners import ProcessPoolTaskRunner

from tasks.compute import prepare_child
from tasks.errors import ExperimentError
from tasks.specs import ComputeSpec


class Crew:
    """The processes that run the tasks of the flow run under way. None start before there is work for them."""

    def __init__(self, compute: ComputeSpec, size: int) -> None:
        """`size` is how many jobs are made at a time.

        Raises ExperimentError when what `compute.runner` names is not installed.
        """
        self.compute, self.size = compute, size
        self._there = 0
        self._at_work = ExitStack()
        task_runner(compute, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._at_work.close()

    @property
    def is_here(self) -> bool:
        """Whether jobs are made one after another in the flow's own process: for one at a time, unless in a cluster."""
        return self.size == 1 and self.compute.address is None

    def gather(self, size: int) -> None:
        """Have `size` processes: those that are there, or others in their place. A cluster has as many as it has."""
        if not self._there or (size != self._there and self.compute.address is None):
            self.renew(size)

    def renew(self, size: int) -> None:
        """Go on with new processes, `size` of them: one that is killed takes the whole pool with it."""
        self._at_work.close()
        self._at_work.enter_context(running_on(task_runner(self.compute, size)))
        self._there = size


@contextmanager
def running_on(runner: Any) -> Iterator[None]:
    """Have the tasks of the flow run under way run on a task runner that its parameters chose.

    Prefect takes the runner from the flow, before it knows any parameter.
    """
    context = FlowRunContext.get()
    if context is None:
        raise RuntimeError("a task runner works within a flow run")
    with runner, context.model_copy(update={"task_runner": runner}):
        yield


def task_runner(compute: ComputeSpec, workers: int) -> Any:
    """The Prefect task runner for `workers` processes, one task each at a time.

    Raises:
        ExperimentError: its package is not installed.
    """
    memory = None if compute.memory_gib is None else int(compute.memory_gib * 2**30)
    try:
        match compute.runner:
            case "sequential" | "processes":
                return ProcessPoolTaskRunner(max_workers=workers, initializer=prepare_child, initargs=(memory,))
            case "dask":
                from prefect_dask.task_runners import DaskTaskRunner

                if compute.address:
                    return DaskTaskRunner(address=compute.address)
                # Processes, because torch's settings are those of a process; no dashboard, which wants a fixed port.
                local = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
                return DaskTaskRunner(cluster_kwargs={**local, "memory_limit": memory or 0})
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
