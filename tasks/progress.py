"""Progress of long work: a line on stderr every few seconds, and a progress artifact in the Prefect UI.

harvest  41 %  123,000/300,000 tokens  3,150 tokens/s  0:56 left
topk blocks.9.hook_resid_post: train  12 %  147,456/1,228,800 rows  28,410 rows/s  0:38 left
ioi pca blocks.9.hook_resid_post  40 %  2/5 parts  48 s each  2:24 left
"""

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts units of work done. `done` is what an earlier, interrupted attempt had already made.

    Inside a task run its line begins with the run's name, which tells the same work of two dictionaries apart.
    """

    def __init__(self, activity: str, total: int, unit: str, done: int = 0) -> None:
        run = TaskRunContext.get()
        self.in_run = run is not None
        self.name = activity if run is None else _told_within(run.task_run.name, activity)
        self.total, self.unit = total, unit
        self.done = self.done_before = done
        self.started = self.last_line = time.monotonic()
        self.artifact: UUID | None = None

    def __enter__(self) -> Self:
        if self.done_before:
            self._say(f"goes on at {self.done_before:,}/{self.total:,} {self.unit}")
        if self.in_run:
            key = artifact_key("progress", self.name)
            with self._server_may_fail():
                self.artifact = create_progress_artifact(self._percent(), key=key, description=self.name)  # pyright: ignore[reportAttributeAccessIssue]
        return self

    def add(self, amount: int) -> None:
        self.done += amount
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self._report()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._report()

    def rate(self) -> float:
        """Units per second of this attempt."""
        return (self.done - self.done_before) / max(time.monotonic() - self.started, 1e-9)

    def _percent(self) -> float:
        return 100.0 * min(self.done / max(self.total, 1), 1.0)

    def _speed(self, rate: float) -> str:
        if not rate:
            return "under way"
        return f"{rate:,.0f} {self.unit}/s" if rate >= 1 else f"{1 / rate:,.0f} s each"

    def _report(self) -> None:
        rate = self.rate()
        left = max(self.total - self.done, 0)
        end = (
            f"took {clock(time.monotonic() - self.started)}"
            if not left
            else f"{clock(left / rate)} left"
            if rate
            else ""
        )
        self._say(
            f"{self._percent():3.0f} %  {self.done:,}/{self.total:,} {self.unit}  {self._speed(rate)}  {end}".rstrip()
        )
        if self.artifact is not None:
            with self._server_may_fail():
                update_progress_artifact(self.artifact, self._percent())

    @contextlib.contextmanager
    def _server_may_fail(self) -> Iterator[None]:
        """Hours of work do not end because the server could not be told of them: it is not told any more."""
        try:
            yield
        except Exception as error:
            self.artifact = None
            self._say(f"is no longer shown in the UI: {error}")

    def _say(self, text: str) -> None:
        print(f"{self.name}  {text}", file=sys.stderr, flush=True)


def _told_within(run: str, activity: str) -> str:
    """What is done in a task run, without the artifact in brackets that ends the run's name."""
    run = run.rpartition(" [")[0] or run
    return run if run.startswith(activity) else f"{run}: {activity}"


def artifact_key(*words: str) -> str:
    """The key of a Prefect artifact, which admits lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds: 83 is 1:23."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
