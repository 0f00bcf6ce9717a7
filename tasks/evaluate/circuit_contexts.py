"""Dictionaries one behind the other, and the places in held-out text where a feature of the last one fires.

`Site` is one dictionary on all held-out rows, `Contexts` are the places, and `Stack` is what the dictionaries see
there, with the model between them: what sae_core.circuits works on.

What the experiment's row filter leaves out (attention sinks) counts as without any feature, so that nothing changes it.

Shapes: S rows of tokens or contexts, P positions, B held-out rows of activations, d width, n features, F some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.circuits import Layer, Link, all_but, watch
from sae_core.dictionary import Dictionary
from sae_core.interventions import patch, writes
from sae_core.pattern_features import encoded
from tasks.capture import capture
from tasks.evaluate.results import NotMeasurable
from tasks.patching import Prompts, Replace, padded
from tasks.pattern_matches import HeldOut
from tasks.rows import LiveFilter

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

LENGTH = 64
"""Tokens that a context has at most."""

SPARE = 4
"""So many times more places are tried than contexts are wanted, as some need what is further back."""


@dataclass(frozen=True)
class Site:
    """A dictionary, where it stands, and what the model has there on held-out rows."""

    hook_point: str
    dictionary: Dictionary
    held_out: HeldOut
    live: LiveFilter

    @cached_property
    def writes_nd(self) -> Float[Tensor, "n d"]:
        return writes(self.dictionary)

    @cached_property
    def mean_n(self) -> Float[Tensor, " n"]:
        """The mean codes."""
        batches = encoded(self.dictionary, self.held_out.x_Bd, self.held_out.matches_B)
        return torch.stack([f_Bn.sum(0) for f_Bn, _ in batches]).sum(0) / int(self.held_out.kept_SP.sum())

    def codes(self, features: Sequence[int]) -> Float[Tensor, "B F"]:
        """Those of a few features, on the CPU."""
        batches = encoded(self.dictionary, self.held_out.x_Bd, self.held_out.matches_B)
        return torch.cat([f_Bn[:, list(features)].cpu() for f_Bn, _ in batches])


@dataclass(frozen=True)
class Contexts:
    """Token sequences, padded on the right."""

    tokens_SP: Int[np.ndarray, "S P"]
    last_S: Int[np.ndarray, " S"]
    own_SP: Bool[Tensor, "S P"]
    """Positions that are no padding."""


def draw_contexts(
    bridge: TransformerBridge, site: Site, feature: int, sign: int, how_many: int, end_of_text: int, seed: int
) -> Contexts:
    """Up to places, drawn at random, where sign · f is at least half its maximum M, and is so in the context as well.

    Raises:
        NotMeasurable: the feature never fires, or there is no such place.
    """
    f_B = sign * site.codes([feature])[:, 0]
    half = float(f_B.max()) / 2
    if half <= 0:
        raise NotMeasurable(f"feature {feature} of {site.hook_point} does not fire on {len(f_B)} held-out tokens")
    places = site.held_out.kept_SP.nonzero()[f_B >= half]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    chosen = places[order[: SPARE * how_many]].tolist()
    prompts = [_up_to(site.held_out.tokens_SP[row], position, end_of_text) for row, position in chosen]
    tokens_SP, last_S, own_SP = padded(prompts, end_of_text)
    x_SPd = capture(bridge, tokens_SP, [site.hook_point])[site.hook_point].float().unflatten(0, tokens_SP.shape)
    with torch.no_grad():
        f_Sn = site.dictionary.encode(x_SPd[torch.arange(len(last_S)), torch.from_numpy(last_S)].to(site.writes_nd))
    kept = (sign * f_Sn[:, feature] >= half).nonzero()[:how_many, 0].cpu().numpy()
    if not len(kept):
        raise NotMeasurable(
            f"feature {feature} of {site.hook_point} has half its maximum at {len(places)} places, and not where the "
            f"model sees {LENGTH} tokens alone"
        )
    return Contexts(tokens_SP[kept], last_S[kept], torch.from_numpy(own_SP[kept]))


def _up_to(row: Int[np.ndarray, " P"], position: int, end_of_text: int) -> list[int]:
    """The tokens of a context; where the row's first one, the attention sink, is cut off, another is in its place."""
    if position < LENGTH:
        return row[: position + 1].tolist()
    return [end_of_text, *row[position + 2 - LENGTH : position + 1].tolist()]


class Stack:
    """The dictionaries in the contexts, and the model between them; the target is watched at the last positions."""

    def __init__(self, bridge: TransformerBridge, sites: Sequence[Site], contexts: Contexts, feature: int) -> None:
        self.sites, self.contexts = sites, contexts
        last = len(sites) - 1
        self.prompts = [Prompts(bridge, contexts.tokens_SP, site.hook_point, contexts.last_S) for site in sites[:-1]]
        with torch.no_grad():
            at_last_SPd = self.prompts[0].activations(self.prompts[0].clean_SPd[None], sites[-1].hook_point)[0]
        clean = [*(prompts.clean_SPd for prompts in self.prompts), at_last_SPd]
        own_SP = contexts.own_SP.to(at_last_SPd.device)
        self.own = [own_SP & site.live.kept(x_SPd) for site, x_SPd in zip(sites, clean, strict=True)]
        """Positions that are neither padding nor attention sinks."""
        self.layers = [self._layer(at, x_SPd) for at, x_SPd in enumerate(clean)]
        self.links = [self._link(at, at + 1) for at in range(last)]
        self.to_target = [self._link(at, last) for at in range(last)]
        """From each earlier layer straight to the last one."""

        device = at_last_SPd.device
        last_1S = torch.from_numpy(contexts.last_S).to(device)[None]
        self.target = watch(self.layers[-1], torch.tensor([feature], device=device), last_1S)

    def _layer(self, at: int, x_SPd: Float[Tensor, "S P d"]) -> Layer:
        site = self.sites[at]
        with torch.no_grad():
            f_SPn = site.dictionary.encode(x_SPd) * self.own[at][..., None]
        return Layer(x_SPd, f_SPn, site.writes_nd, site.dictionary.encode)

    def _link(self, lower: int, upper: int) -> Link:
        prompts, hook_point = self.prompts[lower], self.sites[upper].hook_point
        return Link(self.layers[lower], self.layers[upper], lambda x_CSPd: prompts.activations(x_CSPd, hook_point))

    @torch.no_grad()
    def response(self, kept: Sequence[Bool[Tensor, " n"]]) -> float:
        """m, mean over contexts, with all features of the earlier layers but these at their mean, layer after layer."""
        first, *others = [self._keeping(at, kept_n) for at, kept_n in enumerate(kept)]
        between = {site.hook_point: other for site, other in zip(self.sites[1:], others, strict=False)}
        changed = Link(
            self.layers[0],
            self.layers[-1],
            lambda x_CSPd: self.prompts[0].activations(x_CSPd, self.sites[-1].hook_point, between),
        )
        x_SPd = self.layers[0].x_SPd
        return float(changed.measured(self.target, first(x_SPd.flatten(0, 1)).view_as(x_SPd)[None]).mean())

    def _keeping(self, at: int, kept_n: Bool[Tensor, " n"]) -> Replace:
        site, own_B1 = self.sites[at], self.own[at].flatten()[:, None]

        def replace(x_Bd: Tensor) -> Tensor:
            change_Bn = all_but(site.dictionary.encode(x_Bd), kept_n, site.mean_n)
            return patch(x_Bd, change_Bn * own_B1, site.writes_nd)

        return replace
