"""Jobs to artifacts: as Prefect tasks on a crew of processes, and what becomes of a process that is killed."""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.states import Crashed

from flows.runners import Crew
from flows.stages import Job
from storage.artifacts import ArtifactRef
from tasks.errors import ExperimentError

logger = logging.getLogger("saeflow.experiment")

Future = PrefectFuture[ArtifactRef]


def make(jobs: Sequence[Job], crew: Crew) -> list[ArtifactRef]:
    """Make jobs as Prefect tasks: several at once on the crew, one alone or already made in this process.

    Every job is done with before a failure is raised, so that what can be made is made. When the system kills one
    process, for want of memory say, its pool is gone, and the work of its neighbours with it, up to their last
    checkpoints. They go on from there in a new pool, half as many at a time, until a job that is killed alone is the
    one to blame.

    Raises the first failure; ExperimentError for a job whose process was killed each time.
    """
    left: list[int] = []
    made: dict[int, ArtifactRef] = {}
    failures: dict[int, Exception] = {}
    for number, job in enumerate(jobs):
        if crew.size == 1 or len(jobs) == 1 or job.find() is not None:
            made[number] = job.step.run(job.run_name, **job.inputs)
        else:
            left.append(number)
    at_once = size = crew.size
    while left:
        futures = {number: jobs[number].step.submit(jobs[number].run_name, **jobs[number].inputs) for number in left}
        left = []
        for number, future in futures.items():
            try:
                future.wait()
                made[number] = future.result()
            except BrokenProcessPool:
                left.append(number)
            except Exception as error:
                failures[number] = error
        if not left:
            break
        names = [jobs[number].name for number in left]
        _tell_crashed(futures[number] for number in left)
        if size == 1:
            to_blame = left.pop(0)  # jobs are begun in order
            failures[to_blame] = _killed(jobs[to_blame])
        else:
            size //= 2
            logger.warning(
                "a process was killed while it worked on one of: %s. They go on, %d at a time.", ", ".join(names), size
            )
        crew.renew(size)
    if size < at_once:
        crew.renew(at_once)
    for number in sorted(failures):
        raise failures[number]
    return [made[number] for number in range(len(jobs))]


def _killed(job: Job) -> ExperimentError:
    return ExperimentError(
        f"the process that worked on {job.name!r} was killed, alone as well. Most likely memory ran out: choose a "
        "smaller expansion or batch_size, lower compute.resident_gib, or run on a machine with more memory. What it "
        "did up to its last checkpoint is kept."
    )


def _tell_crashed(futures: Iterable[Future]) -> None:
    """Prefect does not hear of the end of a process: without this its tasks would be shown as running for ever."""
    with get_client(sync_client=True) as client:
        for future in futures:
            try:
                client.set_task_run_state(future.task_run_id, Crashed(message="its process was killed"), force=True)
            except ObjectNotFound:  # it died before the server heard of it
                continue
            except Exception as error:
                logger.warning("the Prefect server was not told of a killed task: %s", error)
