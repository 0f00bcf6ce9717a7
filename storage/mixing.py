"""Shuffled batches from a stream of chunks that does not fit in memory."""

from collections.abc import Iterator

import torch
from torch import Tensor


def mix_rows(
    blocks: Iterator[Tensor],
    buffer: Tensor,
    *,
    block_rows: int,
    batch_size: int,
    start_batch: int,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Random batches [batch_size, d] of the rows of `blocks` [≤ block_rows, d], each at most once.

    `buffer` [slots, d] is the memory to mix in: it is refilled whenever less than half of it waits, and the
    waiting rows are permuted anew. The last incomplete batch is dropped. The first `start_batch` batches are
    not gathered, but the rest is as it would be after them.
    """
    # slots[:free] are empty, slots[free:] hold rows in the order in which they will leave.
    slots = torch.arange(len(buffer))
    free = len(buffer)
    more, batch = True, 0
    while True:
        if more and len(buffer) - free < max(len(buffer) // 2, batch_size):
            while free >= block_rows and more:
                block = next(blocks, None)
                if block is None:
                    more = False
                else:
                    buffer.index_copy_(0, slots[free - len(block) : free], block)
                    free -= len(block)
            slots[free:] = slots[free:][torch.randperm(len(buffer) - free, generator=generator)]
        if len(buffer) - free < batch_size:
            return
        leaving = slots[free : free + batch_size]
        free += batch_size
        if batch >= start_batch:
            yield buffer.index_select(0, leaving)
        batch += 1
