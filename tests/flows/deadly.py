"""Steps whose processes are killed, as for want of memory, if they are told so."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.caching import step
from tasks.compute import Compute
from tasks.workers import run_on_workers


@step(kind="deadly", code_version="1")
def work(place: Path, name: str, dies: bool, fails: bool) -> dict[str, Any]:
    if fails:
        raise ValueError(f"{name} cannot be made")
    if dies:
        time.sleep(0.2)  # so that a neighbour is at work
        os.kill(os.getpid(), signal.SIGKILL)
    (place / "done").write_text(name)
    return {"process": os.getpid()}


@step(kind="shared", code_version="1", resumable=True)
def share_work(place: Path, deaths: int, compute: Compute) -> dict[str, Any]:
    """In shares, the first of which dies as often as told."""
    calls = [{"place": str(place), "deaths": deaths if number == 0 else 0} for number in range(compute.workers)]
    run_on_workers(share, calls, lambda: None)
    return {}


@task(name="share", cache_policy=NO_CACHE, persist_result=False)
def share(place: str, deaths: int) -> None:
    attempt = len(list(Path(place).glob("died-*")))
    if attempt < deaths:
        (Path(place) / f"died-{attempt}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
