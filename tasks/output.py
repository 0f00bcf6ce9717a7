"""What becomes of words that nobody reads any more.

A run prints into pipes of the worker that started it. When that worker is killed the run goes on, and its next word is
a BrokenPipeError, wherever it happens to be said: rich has it end the thread, and a run whose thread for finished jobs
has ended waits for them for ever.
"""

import os
import select
import stat
import threading
from functools import cache

OUTPUTS = (1, 2)


@cache
def outlive_readers() -> None:
    """From now on, what this process prints goes nowhere once the other end of its pipe is closed."""
    pipes = [output for output in OUTPUTS if _is_pipe(output)]
    if pipes:
        threading.Thread(target=_watch, args=(pipes,), name="outlive-readers", daemon=True).start()


def _watch(pipes: list[int]) -> None:
    waiting = select.poll()
    for output in pipes:
        waiting.register(output, 0)  # of no event but that nobody reads it any more
    while pipes:
        for output, _ in waiting.poll():
            waiting.unregister(output)
            pipes.remove(output)
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), output)


def _is_pipe(output: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(output).st_mode)
    except OSError:  # it is closed
        return False
