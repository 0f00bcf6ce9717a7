"""Where a step runs and who is told of its progress: what never enters a cache key."""

import multiprocessing
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from prefect.concurrency.sync import concurrency
from pydantic import BaseModel

from tasks.interpret.access import Access
from tasks.loggers import Logger
from tasks.output import outlive_readers

GPU_SLOTS = "saeflow-gpu"
"""The Prefect concurrency limit that steps on a GPU share; without such a limit on the server they do not wait."""


class Compute(BaseModel, frozen=True):
    """A resolved place to run: "cpu" or "cuda", and threads for the CPU's share of the work."""

    device: str = "cpu"
    threads: int = 1
    workers: int = 1
    """Processes that a step which can be shared is shared between."""
    resident_bytes: int = 0
    """Activations of up to this size stay in memory while a dictionary is trained on them."""
    loggers: tuple[Logger, ...] = ()
    access: Access = Access()
    """To the servers of language models."""

    def apply(self) -> None:
        """Set this process's thread count. Sums are ordered by thread, so the count is part of reproducibility."""
        torch.set_num_threads(self.threads)


@contextmanager
def gpu_slot(compute: Compute | None) -> Iterator[None]:
    """Work that holds one of the GPU slots, if it is work on a GPU."""
    if compute is None or compute.device == "cpu":
        yield
        return
    with concurrency(GPU_SLOTS, occupy=1):
        yield


def prepare_child(memory_bytes: int | None) -> None:
    """Set up a process of a pool: with how much memory it must do, that it ends with its parent, and not before."""
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    outlive_readers()
    # A pool's process whose parent was killed would wait for work for ever.
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, name="end-with-parent", daemon=True).start()
