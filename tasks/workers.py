"""Work that one step shares between processes: the workers of the flow that it runs in."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from contextvars import copy_context
from threading import Event, Thread
from typing import Any

from prefect import Task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.states import Crashed

from storage.errors import StorageError

SECONDS_BETWEEN_LOOKS = 2.0

logger = logging.getLogger("saeflow.workers")


def run_on_workers(task: Task[..., Any], calls: Sequence[Mapping[str, Any]], look: Callable[[], None]) -> None:
    """Run `task` with each of `calls`; meanwhile, and at the end, `look` at how far the work is.

    Several calls go to the task runner of the flow (processes, Dask, Ray); a single one, and those of a step that runs
    outside of a flow, are made here, one after another. All are waited for before the first failure is raised.

    Raises BrokenProcessPool when the system killed a process: the step can be run again, on other processes.
    """
    with _every_few_seconds(look):
        if len(calls) <= 1 or FlowRunContext.get() is None:
            for call in calls:
                task.fn(**call)
        else:
            failures: list[Exception] = []
            killed = []
            for future in [task.submit(**call) for call in calls]:
                try:
                    future.result()
                except Exception as error:
                    failures.append(error)
                    if isinstance(error, BrokenProcessPool):
                        killed.append(future)
            tell_killed(killed)
            for failure in failures:
                raise failure


def tell_killed(futures: Iterable[PrefectFuture[Any]]) -> None:
    """Prefect does not hear of the end of a process: without this its tasks would be shown as running for ever."""
    with get_client(sync_client=True) as client:
        for future in futures:
            try:
                client.set_task_run_state(future.task_run_id, Crashed(message="its process was killed"), force=True)
            except ObjectNotFound:  # it died before the server heard of it
                continue
            except Exception as error:
                logger.warning("the Prefect server was not told of a killed task: %s", error)


@contextmanager
def _every_few_seconds(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` in the background, and once more at the end if all went well."""
    ended = Event()

    def repeat() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            with suppress(StorageError):  # an object store that is out of reach for a while stops no work here
                look()

    thread = Thread(target=copy_context().run, args=(repeat,), name="look", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    look()
