"""What a run has sent so far, in one small file: its dictionaries are evaluated in processes that share its limits."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from prefect.context import TaskRunContext

from tasks.caching import artifacts

ROOM = 512
"""Bytes of the file, all written at once, so that a killed process leaves numbers and never a part of them."""


class Ledger:
    """Named numbers that several processes change, one at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def numbers(self) -> Iterator[dict[str, float]]:
        """The numbers, to be changed in place; all others wait until this ends."""
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            written = os.pread(descriptor, ROOM, 0)
            numbers: dict[str, float] = json.loads(written) if written else {}
            yield numbers
            os.pwrite(descriptor, json.dumps(numbers).ljust(ROOM).encode(), 0)
        finally:
            os.close(descriptor)


def ledger_of_this_run() -> Ledger:
    """That of the Prefect flow run whose task this is; elsewhere a new one."""
    context = TaskRunContext.get()
    flow_run = context.task_run.flow_run_id if context is not None else None
    return Ledger(artifacts().scratch / "spending" / f"{flow_run or uuid4()}.json")


class Clock:
    """Time as it passes; tests bring one of their own."""

    def now(self) -> float:
        """Seconds, the same for all processes."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        import asyncio

        await asyncio.sleep(seconds)
