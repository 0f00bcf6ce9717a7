"""Work that one step shares between processes: the workers of the flow that it runs in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from threading import Event, Thread
from typing import Any

from prefect import Task
from prefect.context import FlowRunContext

from storage.errors import StorageError

SECONDS_BETWEEN_LOOKS = 2.0


def run_on_workers(task: Task[..., Any], calls: Sequence[Mapping[str, Any]], look: Callable[[], None]) -> None:
    """Run `task` with each of `calls`; meanwhile, and at the end, `look` at how far the work is.

    Several calls go to the task runner of the flow (processes, Dask, Ray); a single one, and those of a step that runs
    outside of a flow, are made here, one after another. All are waited for before the first failure is raised.
    """
    with _every_few_seconds(look):
        if len(calls) <= 1 or FlowRunContext.get() is None:
            for call in calls:
                task.fn(**call)
        else:
            futures = [task.submit(**call) for call in calls]
            for future in futures:
                future.wait()
            for future in futures:
                future.result()


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
