"""Forward passes in which activations are replaced: what the model predicts, and computes, from there on.

`logits` replaces in one whole pass, `next_logits` while a text grows token by token. `Prompts` keeps some prompts' pass
up to a hook point, so that the model can be run from there on again and again, with many candidates for the activations
side by side, or with gradients. `gradients` are those at many hook points of one whole pass.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tasks.capture import native_modules
from tasks.errors import ExperimentError
from tasks.language_model import layer_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TOKENS_PER_PASS = 4096
PREDICTIONS_PER_PASS = 1 << 25  # tokens × vocabulary: 128 MiB in float32

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
    edits = [] if hook_point is None or replace is None else [_Edit(hook_point, replace)]
    with torch.inference_mode(), bridge.hooks(fwd_hooks=_hooks(edits)), native_modules(bridge):
        predicted: Any = bridge(_batch(bridge, tokens), return_type="logits", use_cache=False)
    _check(bridge, edits)
    return predicted.float()


def gradients(
    bridge: TransformerBridge,
    tokens: Int[np.ndarray, "sequences positions"],
    hook_points: Sequence[str],
    metric: Callable[[Float[Tensor, "sequences positions vocabulary"]], Float[Tensor, ""]],
) -> dict[str, Float[Tensor, "sequences positions width"]]:
    """∂ metric(logits) / ∂x for the activations of each hook point, all in one pass and in float32.

    Those of one hook point go through all that follows from it, later ones of these hook points included.

    Raises:
        ExperimentError: the forward pass does not go through a hook point.
    """
    nothing: dict[str, Tensor] = {}

    def adding_nothing(name: str) -> Replace:
        def replace(rows: Tensor) -> Tensor:
            nothing[name] = torch.zeros_like(rows, requires_grad=True)
            return rows + nothing[name]

        return replace

    edits = [_Edit(name, adding_nothing(name)) for name in hook_points]
    with torch.enable_grad(), bridge.hooks(fwd_hooks=_hooks(edits)), native_modules(bridge):
        predicted: Any = bridge(_batch(bridge, tokens), return_type="logits", use_cache=False)
        _check(bridge, edits)
        found = torch.autograd.grad(metric(predicted.float()), list(nothing.values()), materialize_grads=True)
    return {name: rows.unflatten(0, tokens.shape) for name, rows in zip(nothing, found, strict=True)}


def by_predictions(
    bridge: TransformerBridge, tokens: Int[np.ndarray, "sequences positions"]
) -> Iterator[Int[np.ndarray, "some positions"]]:
    """Sequences in turn, so many at a time that what is predicted at all their positions is no burden."""
    per_pass = max(1, PREDICTIONS_PER_PASS // (tokens.shape[1] * int(bridge.cfg.d_vocab)))
    for start in range(0, len(tokens), per_pass):
        yield tokens[start : start + per_pass]


def next_logits(
    bridge: TransformerBridge, tokens: Int[np.ndarray, "sequences new"], hook_point: str, replace: Replace, cache: Any
) -> tuple[Float[Tensor, "sequences vocabulary"], Any]:
    """What the model predicts behind the last of these tokens, and what it keeps of them for those that follow.

    Args:
        cache: what it kept of the tokens before these; None where there are none. A model that keeps nothing returns
            None, and needs all tokens again.

    Raises:
        ExperimentError: the forward pass does not go through the hook point.
    """
    edit = _Edit(hook_point, replace)
    with torch.inference_mode(), bridge.hooks(fwd_hooks=edit.hooks()), native_modules(bridge):
        predicted, cache = bridge(
            _batch(bridge, tokens), return_type="logits_and_cache", use_cache=True, past_key_values=cache
        )
    _check(bridge, [edit])
    return predicted[:, -1].float(), cache


class Prompts:
    """Prompts, and the model from one hook point on; what comes before that is computed once.

    Shapes: C candidates, S prompts, P positions, d the hook point's width, V the vocabulary.
    """

    def __init__(
        self,
        bridge: TransformerBridge,
        tokens_SP: Int[np.ndarray, "S P"],
        hook_point: str,
        read_at_S: Int[np.ndarray, " S"] | None = None,
    ) -> None:
        """
        Args:
            read_at_S: the position of each prompt whose prediction is read; by default the last. Prompts of different
                lengths are padded on the right: in a causal model what is behind a position does not change it.

        Raises:
            ExperimentError: the forward pass does not go through the hook point.
        """
        self.bridge, self.tokens_SP, self.hook_point = bridge, tokens_SP, hook_point
        last = np.full(len(tokens_SP), tokens_SP.shape[1] - 1) if read_at_S is None else read_at_S
        kept, self._which_S = np.unique(last, return_inverse=True)
        self._kept = torch.from_numpy(kept).to(bridge.cfg.device)
        self._layer = layer_of(hook_point)
        self._tuples = 0
        """How many values a block returns as a tuple; 0 where it returns a tensor."""
        self._entered_SPd: Tensor | None = None
        """What enters the hook point's block."""
        seen: dict[str, Tensor] = {}
        with torch.no_grad(), self._watching(seen):
            self.clean_logits_SV = self._run(tokens_SP, [])
        self._entered_SPd = seen["entered"]
        self.clean_SPd = seen["clean"].float()
        """What the model itself has at the hook point, in float32."""

    def logits(self, x_CSPd: Float[Tensor, "C S P d"]) -> Float[Tensor, "C S V"]:
        """Predictions with these activations at the hook point. Gradients flow where x has them."""
        return torch.cat([self._run(*self._candidates(part)) for part in self._parts(x_CSPd)]).unflatten(
            0, (len(x_CSPd), -1)
        )

    def activations(
        self, x_CSPd: Float[Tensor, "C S P d"], hook_point: str, between: Mapping[str, Replace] | None = None
    ) -> Float[Tensor, "C S P e"]:
        """What a later hook point has, in float32, with these activations at this one; no layer behind it is run.

        Args:
            between: what to replace at hook points on the way.
        """
        found = []
        for part in self._parts(x_CSPd):
            seen: dict[str, Tensor] = {}
            tokens, edits = self._candidates(part)
            edits += [_Edit(name, replace) for name, replace in (between or {}).items()]
            with contextlib.suppress(_Enough):
                self._run(tokens, edits, [(hook_point, _see(seen))])
            if not seen:
                raise ExperimentError(_not_there(self.bridge, hook_point))
            found.append(seen["there"].float())
        return torch.cat(found).unflatten(0, (len(x_CSPd), -1))

    def _parts(self, x_CSPd: Tensor) -> tuple[Tensor, ...]:
        return x_CSPd.split(max(1, TOKENS_PER_PASS // self.tokens_SP.size))

    def _candidates(self, x_CSPd: Tensor) -> tuple[np.ndarray, list[_Edit]]:
        tokens = np.tile(self.tokens_SP, (len(x_CSPd), 1))
        return tokens, [_Edit(self.hook_point, lambda rows: x_CSPd.reshape(len(rows), -1))]

    def _run(
        self, tokens: np.ndarray, edits: Sequence[_Edit], watching: Sequence[Any] = ()
    ) -> Float[Tensor, "prompts V"]:
        which = np.tile(self._which_S, len(tokens) // len(self._which_S))
        hooks = [*_hooks(edits), *watching]  # in this order: what is seen is what the edits leave
        keep: dict[str, Any] = {}
        if "logits_to_keep" in inspect.signature(type(self.bridge.original_model).forward).parameters:
            keep["logits_to_keep"] = self._kept  # the vocabulary's matrix is a quarter of a small model
        with self._skipping(len(tokens)), self.bridge.hooks(fwd_hooks=hooks), native_modules(self.bridge):
            predicted: Any = self.bridge(_batch(self.bridge, tokens), return_type="logits", use_cache=False, **keep)
        _check(self.bridge, edits)
        if not keep:
            predicted = predicted[:, self._kept]
        return predicted[torch.arange(len(which)), torch.from_numpy(which).to(predicted.device)].float()

    @contextlib.contextmanager
    def _watching(self, seen: dict[str, Tensor]) -> Iterator[None]:
        """Note what enters the hook point's block, what is at the hook point, and what blocks return."""

        def note(name: str) -> Any:
            return lambda value, hook: seen.__setitem__(name, _tensor(value).reshape(*self.tokens_SP.shape, -1).clone())

        def returned(module: Any, inputs: Any, output: Any) -> None:
            self._tuples = len(output) if isinstance(output, tuple) else 0

        block: Any = self.bridge.blocks[0]
        handle = block.register_forward_hook(returned)
        hooks: list[Any] = [(f"blocks.{self._layer}.hook_in", note("entered")), (self.hook_point, note("clean"))]
        try:
            with self.bridge.hooks(fwd_hooks=hooks):
                yield
        finally:
            handle.remove()
        if "clean" not in seen:
            raise ExperimentError(_not_there(self.bridge, self.hook_point))

    @contextlib.contextmanager
    def _skipping(self, sequences: int) -> Iterator[None]:
        """Hand on what entered the hook point's block, without the blocks before it."""
        entered = self._entered_SPd
        if entered is None:
            yield
            return

        def hand_on(*inputs: Any, **named: Any) -> Any:
            hidden = inputs[0] if inputs else named["hidden_states"]
            return (hidden, *[None] * (self._tuples - 1)) if self._tuples else hidden

        again = entered.repeat(sequences // len(entered), 1, 1)
        enter: list[Any] = [(f"blocks.{self._layer}.hook_in", lambda value, hook: again)]
        with contextlib.ExitStack() as undo:
            for block in list(self.bridge.blocks)[: self._layer]:
                # Not by setattr, as a component hands attributes on to the module that it wraps.
                vars(block)["forward"] = hand_on
                undo.callback(vars(block).pop, "forward")
            with self.bridge.hooks(fwd_hooks=enter):
                yield


def padded(
    prompts: Sequence[Sequence[int]], filler: int
) -> tuple[Int[np.ndarray, "S P"], Int[np.ndarray, " S"], Bool[np.ndarray, "S P"]]:
    """Prompts as one array, padded on the right; the last position of each; which positions are its own."""
    lengths = np.array([len(prompt) for prompt in prompts])
    own = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.full(own.shape, filler, dtype=np.int64)
    tokens[own] = np.concatenate([np.asarray(prompt) for prompt in prompts])
    return tokens, lengths - 1, own


class _Enough(Exception):
    """Ends a forward pass once what is wanted was seen."""


class _Edit:
    """The hooks that replace the activations of one hook point in one forward pass."""

    def __init__(self, hook_point: str, replace: Replace) -> None:
        self.hook_point, self.replace = hook_point, replace
        self.seen = False
        self.change: Tensor | None = None

    def hooks(self) -> list[Any]:
        if not self.hook_point.endswith(".hook_resid_mid"):
            return [(self.hook_point, self.at_hook_point)]
        # Seen at the input of the norm before the MLP. The stream itself goes past that, to the end of the block.
        return [(self.hook_point, self.at_hook_point), (self.hook_point.replace("_mid", "_post"), self.behind)]

    def at_hook_point(self, value: Any, hook: Any) -> Any:
        seen = _tensor(value)
        rows = seen.reshape(seen.shape[0] * seen.shape[1], -1).float()
        new = self.replace(rows)
        self.seen = True
        self.change = (new - rows).reshape(seen.shape)
        return _instead(value, new.to(seen.dtype).reshape(seen.shape))

    def behind(self, value: Any, hook: Any) -> Any:
        seen = _tensor(value)
        return value if self.change is None else _instead(value, (seen + self.change).to(seen.dtype))


def _see(seen: dict[str, Tensor]) -> Any:
    def hook(value: Any, hook: Any) -> None:
        rows = _tensor(value)
        seen["there"] = rows.reshape(*rows.shape[:2], -1).clone()
        raise _Enough

    return hook


def _hooks(edits: Sequence[_Edit]) -> list[Any]:
    return [hook for edit in edits for hook in edit.hooks()]


def _batch(bridge: TransformerBridge, tokens: np.ndarray) -> Tensor:
    return torch.from_numpy(tokens.astype(np.int64)).to(bridge.cfg.device)


def _check(bridge: TransformerBridge, edits: Sequence[_Edit]) -> None:
    for edit in edits:
        if not edit.seen:
            raise ExperimentError(_not_there(bridge, edit.hook_point))


def _not_there(bridge: TransformerBridge, hook_point: str) -> str:
    return (
        f"this {type(bridge.original_model).__name__} does not go through hook point {hook_point}. "
        "`saeflow check --hooks` lists those to choose from."
    )


def _tensor(value: Any) -> Tensor:
    # GPT-1 gives lists: what attention computes, and its weights.
    return value[0] if isinstance(value, (list, tuple)) else value


def _instead(value: Any, new: Tensor) -> Any:
    return type(value)((new, *value[1:])) if isinstance(value, (list, tuple)) else new
