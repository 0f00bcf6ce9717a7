"""A step whose process is killed, as for want of memory, if it is told so."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from tasks.caching import step


@step(kind="deadly", code_version="1")
def work(place: Path, name: str, dies: bool) -> dict[str, Any]:
    if dies:
        time.sleep(0.2)  # so that a neighbour is at work
        os.kill(os.getpid(), signal.SIGKILL)
    (place / "done").write_text(name)
    return {}
