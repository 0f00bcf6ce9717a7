"""Jobs to artifacts: as Prefect tasks on a crew of processes, and what becomes of a process that is killed."""

import logging
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

from flows.runners import Crew
from flows.stages import Job
from storage.artifacts import ArtifactRef
from tasks.errors import ExperimentError
from tasks.workers import tell_killed

logger = logging.getLogger("saeflow.experiment")


def make(jobs: Sequence[Job], crew: Crew) -> list[ArtifactRef]:
    """Make jobs as Prefect tasks: several at once on the crew, one alone or already made in this process.

    Every job is done with before a failure is raised, so that what can be made is made. When the system kills one
    process, for want of memory say, its pool is gone, and the work of its neighbours with it, up to their last
    checkpoints. They go on from there in a new pool, half as many at a time, until a job that is killed alone is the
    one to blame. So does a job that shares its work between processes.

    Raises the first failure; ExperimentError for a job whose process was killed each time.
    """
    made: dict[int, ArtifactRef] = {}
    failures: dict[int, Exception] = {}
    alone = len(jobs) == 1
    here = {number for number, job in enumerate(jobs) if alone or crew.is_here or job.find() is not None}
    size = _shared_between(jobs[0]) if alone else crew.size
    if len(here) < len(jobs) or (alone and size > 1):
        crew.gather(size)
    left = list(range(len(jobs)))
    while left:
        futures = {
            number: jobs[number].step.submit(jobs[number].run_name, **jobs[number].inputs)
            for number in left
            if number not in here
        }
        killed = []
        for number in left:
            job, future = jobs[number], futures.get(number)
            try:
                made[number] = future.result() if future is not None else job.step.run(job.run_name, **job.inputs)
            except BrokenProcessPool:
                killed.append(number)
            except Exception as error:
                failures[number] = error
        left = killed
        if not left:
            break
        tell_killed(futures[number] for number in left if number in futures)
        names = ", ".join(jobs[number].name for number in left)
        if size == 1:
            to_blame = left.pop(0)  # jobs are begun in order
            failures[to_blame] = _killed(jobs[to_blame])
        else:
            size //= 2
            logger.warning("a process was killed while it worked on one of: %s. They go on, %d at a time.", names, size)
        crew.renew(size)
    for number in sorted(failures):
        raise failures[number]
    return [made[number] for number in range(len(jobs))]


def _shared_between(job: Job) -> int:
    """How many processes a job shares its own work between."""
    compute = job.inputs.get("compute")
    return compute.workers if compute is not None else 1


def _killed(job: Job) -> ExperimentError:
    return ExperimentError(
        f"the process that worked on {job.name!r} was killed, alone as well. Most likely memory ran out: choose a "
        "smaller expansion or batch_size, lower compute.resident_gib, name fewer hook_points, or run on a machine with "
        "more memory. What it did up to its last checkpoint is kept."
    )
