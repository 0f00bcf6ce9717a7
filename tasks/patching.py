"""Forward passes in which the activations of a hook point are replaced: what the model predicts from there on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.capture import native_modules
from tasks.errors import ExperimentError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Replace = Callable[[Float[Tensor, "rows width"]], Float[Tensor, "rows width"]]
"""Activations, in the order (sequence, position), to what takes their place; both float32."""


def logits(
    bridge: TransformerBridge,
    tokens: Int[np.ndarray, "sequences positions"],
    hook_point: str | None = None,
    replace: Replace | None = None,
) -> Float[Tensor, "sequences positions vocabulary"]:
    """What the model predicts, in float32; where `replace` is given, with other activations at the hook point.

    Raises:
        ExperimentError: the forward pass does not go through the hook point.
    """
    patch = _Patch(replace)
    hooks: list[Any] = []
    if hook_point is not None and replace is not None:
        hooks.append((hook_point, patch.at_hook_point))
        if hook_point.endswith(".hook_resid_mid"):
            # Seen at the input of the norm before the MLP. The stream itself goes past that, to the end of the block.
            hooks.append((hook_point.replace("_mid", "_post"), patch.behind))
    with torch.inference_mode(), bridge.hooks(fwd_hooks=hooks), native_modules(bridge):
        batch = torch.from_numpy(tokens.astype(np.int64)).to(bridge.cfg.device)
        predicted: Any = bridge(batch, return_type="logits", use_cache=False)
    if hooks and not patch.seen:
        raise ExperimentError(
            f"this {type(bridge.original_model).__name__} does not go through hook point {hook_point}. "
            "`saeflow check --hooks` lists those to choose from."
        )
    return predicted.float()


class _Patch:
    """The hooks of one forward pass."""

    def __init__(self, replace: Replace | None) -> None:
        self.replace = replace
        self.seen = False
        self.change: Tensor | None = None

    def at_hook_point(self, value: Any, hook: Any) -> Any:
        assert self.replace is not None
        seen = _tensor(value)
        rows = seen.reshape(seen.shape[0] * seen.shape[1], -1).float()
        new = self.replace(rows)
        self.seen = True
        self.change = (new - rows).reshape(seen.shape)
        return _instead(value, new.to(seen.dtype).reshape(seen.shape))

    def behind(self, value: Any, hook: Any) -> Any:
        seen = _tensor(value)
        return value if self.change is None else _instead(value, (seen + self.change).to(seen.dtype))


def _tensor(value: Any) -> Tensor:
    # GPT-1 gives lists: what attention computes, and its weights.
    return value[0] if isinstance(value, (list, tuple)) else value


def _instead(value: Any, new: Tensor) -> Any:
    return type(value)((new, *value[1:])) if isinstance(value, (list, tuple)) else new
