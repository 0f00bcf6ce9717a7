"""Where a step runs: a device and a number of CPU threads. It never enters a cache key."""

import torch
from pydantic import BaseModel


class Compute(BaseModel, frozen=True):
    """A resolved place to run: "cpu" or "cuda", and threads for the CPU's share of the work."""

    device: str = "cpu"
    threads: int = 1

    def apply(self) -> None:
        """Set this process's thread count. Sums are ordered by thread, so the count is part of reproducibility."""
        torch.set_num_threads(self.threads)
