"""Where a step runs and who is told of its progress: what never enters a cache key."""

import torch
from pydantic import BaseModel

from tasks.loggers import Logger


class Compute(BaseModel, frozen=True):
    """A resolved place to run: "cpu" or "cuda", and threads for the CPU's share of the work."""

    device: str = "cpu"
    threads: int = 1
    workers: int = 1
    """Processes that a step which can be shared is shared between."""
    resident_bytes: int = 0
    """Activations of up to this size stay in memory while a dictionary is trained on them."""
    loggers: tuple[Logger, ...] = ()

    def apply(self) -> None:
        """Set this process's thread count. Sums are ordered by thread, so the count is part of reproducibility."""
        torch.set_num_threads(self.threads)
