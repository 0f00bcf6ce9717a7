"""Many requests at once: each waits for the network most of the time."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def at_once(do: Callable[[Item], Result], items: Iterable[Item], threads: int = 16) -> list[Result]:
    """`[do(item) for item in items]`, `threads` at a time. After a failure no other one is started."""
    with ThreadPoolExecutor(threads) as pool:
        tasks = [pool.submit(do, item) for item in items]
        finished = wait(tasks, return_when=FIRST_EXCEPTION).done
        pool.shutdown(wait=False, cancel_futures=True)
        for task in finished:
            task.result()  # raises what failed first
        return [task.result() for task in tasks]
