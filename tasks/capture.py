"""What a language model computes at its hook points, for given token rows.

Hook points bear TransformerLens' names. Of every layer N that has them:

    blocks.N.hook_resid_pre, hook_resid_mid, hook_resid_post   the residual stream
    blocks.N.hook_attn_out, hook_mlp_out                       what attention and MLP add to it; where a norm follows
                                                               them (Gemma 2 and 3, OLMo 2), after that norm
    blocks.N.attn.hook_z                                       the heads, concatenated
    blocks.N.mlp.hook_post                                     the MLP's hidden layer, as its output projection sees it

Parallel blocks have no hook_resid_mid. Mixtures of experts have no mlp.hook_post: a token has as many hidden layers
as experts.

The forward pass ends as soon as the last wanted hook point was seen, so layers above it cost nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.errors import ExperimentError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TOKENS_PER_PASS = 4096


def capture(
    bridge: TransformerBridge, tokens: Int[np.ndarray, "sequences positions"], hook_points: Sequence[str]
) -> dict[str, Float[Tensor, "rows width"]]:
    """What each hook point saw, rows in the order (sequence, position); heads are concatenated.

    Raises:
        ExperimentError: a hook point does not exist, or the forward pass does not go through it.
    """
    names = set(hook_points)
    _check(bridge, names - bridge.hook_dict.keys(), "does not have")
    seen = _Rows(tokens.size)
    step = max(1, TOKENS_PER_PASS // tokens.shape[1])
    hooks: list[Any] = [(name, seen.hook(name)) for name in names]
    with torch.inference_mode(), bridge.hooks(fwd_hooks=hooks), native_modules(bridge):
        for start in range(0, len(tokens), step):
            batch = torch.from_numpy(tokens[start : start + step].astype(np.int64)).to(bridge.cfg.device)
            seen.expect(names, start * tokens.shape[1], batch.numel())
            with contextlib.suppress(_Enough):
                bridge(batch, return_type=None, use_cache=False)
            _check(bridge, seen.missing, "does not go through")
    return {name: seen.rows[name] for name in hook_points}


class _Enough(Exception):
    """Ends a forward pass once all wanted activations were seen."""


class _Rows:
    """The rows of each hook point, filled pass by pass.

    A hook copies what it sees at once, for some models go on to change it in place, and to its place among all rows,
    for a list of batches that is joined in the end takes twice the memory.
    """

    def __init__(self, n_rows: int) -> None:
        self.rows: dict[str, Tensor] = {}
        self.missing: set[str] = set()
        self._n_rows = n_rows
        self._place = range(0)

    def expect(self, names: set[str], first_row: int, count: int) -> None:
        """Say which rows the next pass computes."""
        self.missing = set(names)
        self._place = range(first_row, first_row + count)

    def hook(self, name: str) -> Any:
        def see(value: Any, hook: Any) -> None:
            if name not in self.missing:
                return
            # GPT-1 gives lists: what attention computes, and its weights.
            rows = (value[0] if isinstance(value, (list, tuple)) else value).reshape(len(self._place), -1)
            if name not in self.rows:
                self.rows[name] = torch.empty((self._n_rows, rows.shape[1]), dtype=rows.dtype)
            self.rows[name][self._place.start : self._place.stop] = rows
            self.missing.remove(name)
            if not self.missing:
                raise _Enough

        return see


@contextlib.contextmanager
def native_modules(bridge: TransformerBridge) -> Iterator[None]:
    """Attention and norms as Hugging Face computes them, by the fused kernels of the hardware.

    TransformerLens computes them anew, to show what is inside: for a fifth more time, and for some models (Falcon) not
    as they do. Here it does not. So hook points of scores, patterns and rotated q and k are not seen, nor those of q, k
    and v where they are one projection; attn.qkv.hook_out is. Hook points inside a norm are, if hooked before.
    """
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
    from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

    def replaced(module: torch.nn.Module) -> bool:
        if isinstance(module, NormalizationBridge):
            return not (module.hook_scale.fwd_hooks or module.hook_normalized.fwd_hooks)
        return isinstance(module, AttentionBridge)

    model: Any = bridge.original_model
    components: list[Any] = [module for module in bridge.modules() if replaced(module)]
    with contextlib.ExitStack() as undo:
        # Some adapters of TransformerLens switch to the slow attention, for the patterns.
        undo.callback(model.set_attn_implementation, model.config._attn_implementation)
        model.set_attn_implementation(model.get_correct_attn_implementation(None))
        for component in components:
            wrapped = component.original_component
            if wrapped is None or component.name is None:
                continue
            # Not by setattr, as a component hands attributes on to the module that it wraps.
            vars(component)["forward"] = MethodType(GeneralizedComponent.forward, component)
            undo.callback(vars(component).pop, "forward")
            # Around a fused projection, the wrapped module has kept its own output projection, without hook points.
            output: Any = component._modules.get("o")
            if output is not None and wrapped._modules.get(output.name) is output.original_component:
                undo.callback(setattr, wrapped, output.name, output.original_component)
                setattr(wrapped, output.name, output)
        yield


def _check(bridge: TransformerBridge, missing: set[str], problem: str) -> None:
    if missing:
        raise ExperimentError(
            f"this {type(bridge.original_model).__name__} {problem} hook point {', '.join(sorted(missing))}. "
            "`saeflow check --hooks` lists those to choose from."
        )
