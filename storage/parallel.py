"""Many reads or requests at once: each waits for the disk or the network most of the time."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
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


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], depth: int, threads: int = 1
) -> Generator[Result]:
    """`map(read, items)`, with `depth` results being made in background threads.

    What `read` raises is raised here. Closing the iterator ends the threads after the reads under way.
    """
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="read-ahead") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
