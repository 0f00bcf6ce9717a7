"""What a language model computes at its hook points, for given token rows.

The forward pass ends as soon as the last wanted hook point was seen, so layers above it cost nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TOKENS_PER_PASS = 4096


class _Enough(Exception):
    """Ends a forward pass once all wanted activations were seen."""


def capture(
    bridge: TransformerBridge, tokens: Int[np.ndarray, "sequences positions"], hook_points: Sequence[str]
) -> dict[str, Float[Tensor, "rows width"]]:
    """What each hook point saw, rows in the order (sequence, position); heads are concatenated."""
    seen: dict[str, Tensor] = {}
    batches: dict[str, list[Tensor]] = {name: [] for name in hook_points}

    def keep(name: str) -> Any:
        def hook(value: Tensor, hook: Any) -> None:
            seen[name] = value
            if len(seen) == len(hook_points):
                raise _Enough

        return hook

    step = max(1, TOKENS_PER_PASS // tokens.shape[1])
    with torch.inference_mode(), bridge.hooks(fwd_hooks=[(name, keep(name)) for name in hook_points]):
        for start in range(0, len(tokens), step):
            batch = torch.from_numpy(tokens[start : start + step].astype(np.int64)).to(bridge.cfg.device)
            seen.clear()
            with contextlib.suppress(_Enough):
                bridge(batch, return_type=None, use_cache=False)
            for name in hook_points:
                batches[name].append(seen[name].reshape(batch.numel(), -1).cpu())
    return {name: torch.cat(parts) for name, parts in batches.items()}
