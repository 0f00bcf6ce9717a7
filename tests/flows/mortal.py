"""A flow that dies as often as it is told to."""

import os
import signal
import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows.resuming import check_resumes


@flow(name="mortal")
def mortal(place: str, deaths: int, lingers: bool = False) -> None:
    """Dies as often as told, and completes then. Each attempt leaves a file that names its process."""
    check_resumes(flow_run.id)
    attempt = len(list(Path(place).iterdir()))
    (Path(place) / f"{attempt}").write_text(str(os.getpid()))
    if attempt < deaths:
        if lingers:
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
