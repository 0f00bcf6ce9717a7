"""Which features of one dictionary make those of the next one fire.

There are some contexts, and dictionaries at places that the forward pass goes through one after the other. A feature g
is *watched* in every context at one position,

    m_g = s f_g        f_g its code there, as the encoder gives it; s = ±1, so that m_g > 0 where nothing is changed

and feature i of the dictionary before is *ablated* at all positions, the reconstruction error kept:

    cut_ig          m_g(x) − m_g(x')                x' = x − f_i w_i            one forward pass for each feature
    attribution_ig  Σ_positions (ḡ · w_i) f_i       ḡ = the mean of ∂m_g/∂x on the line from x to x − Σ_j f_j w_j

(Cunningham et al. 2023, section 5; Marks et al. 2024, section 3). The attribution is an estimate of the cut for all
features at once; where m_g is linear in x it is exact. So it says which features to ablate, and the cuts say which of
them are parents of what.

What a set C of features does for the target is its faithfulness,

    (m(C) − m(∅)) / (m(M) − m(∅))

m(C) is the target with every feature outside C at its mean, M has all of them; the same of M∖C is small where C is
complete.

Shapes: S contexts, P positions, d and e widths, n features; C candidates for the activations of a layer, J features
that are watched, F features that are ablated.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.attribution import indirect_effects, integrated_gradient
from sae_core.interventions import ablate, patch

CANDIDATES_PER_CALL = 16
LARGEST = 64
"""Of a dictionary without sparsity, so many codes of a position count as active."""

LEAST_SHARE = 0.01
"""A feature has a part in another one if ablating it cuts at least this share."""


class Layer(NamedTuple):
    """A dictionary in the contexts."""

    x_SPd: Float[Tensor, "S P d"]
    f_SPn: Float[Tensor, "S P n"]
    """Codes of x; zero at positions where nothing may be ablated, as padding and attention sinks."""

    writes_nd: Float[Tensor, "n d"]
    encode: Callable[[Float[Tensor, "*B d"]], Float[Tensor, "*B n"]]


class Watched(NamedTuple):
    """Features of a layer, each at one position of every context."""

    features_J: Int[Tensor, " J"]
    positions_JS: Int[Tensor, "J S"]
    clean_JS: Float[Tensor, "J S"]
    """Their codes where nothing is changed; zero in contexts where a feature does not fire, which count for nothing."""

    @property
    def fires_JS(self) -> Bool[Tensor, "J S"]:
        return self.clean_JS != 0

    def mean(self, m_JS: Float[Tensor, "*C J S"]) -> Float[Tensor, "*C J"]:
        """Over the contexts in which the feature fires."""
        return m_JS.sum(-1) / self.fires_JS.sum(-1).clamp_min(1)


def watch(layer: Layer, features_J: Int[Tensor, " J"], positions_JS: Int[Tensor, "J S"] | None = None) -> Watched:
    """Features at these positions; by default where each is largest in magnitude."""
    codes_JSP = layer.f_SPn[..., features_J].permute(2, 0, 1)
    if positions_JS is None:
        positions_JS = codes_JSP.abs().argmax(-1)
    return Watched(features_J, positions_JS, codes_JSP.gather(-1, positions_JS[..., None])[..., 0])


@dataclass(frozen=True)
class Link:
    """A layer, one behind it, and what the model computes between the two."""

    lower: Layer
    upper: Layer
    onward: Callable[[Float[Tensor, "C S P d"]], Float[Tensor, "C S P e"]]
    """Activations of the lower layer to those of the upper one."""

    def measured(self, watched: Watched, x_CSPd: Float[Tensor, "C S P d"]) -> Float[Tensor, "C J S"]:
        """m of the upper layer's watched features, with these activations at the lower layer."""
        contexts_S = torch.arange(x_CSPd.shape[1], device=x_CSPd.device)
        codes_CJSn = self.upper.encode(self.onward(x_CSPd)[:, contexts_S, watched.positions_JS])
        which = watched.features_J[:, None, None].expand(*codes_CJSn.shape[:3], 1)
        return watched.clean_JS.sign() * codes_CJSn.gather(-1, which)[..., 0]

    @torch.no_grad()
    def cuts(self, watched: Watched, changed: Iterable[Float[Tensor, "S P d"]]) -> Float[Tensor, "C J S"]:
        """How much smaller m is with each of these activations at the lower layer."""
        clean_JS = self.measured(watched, self.lower.x_SPd[None])[0]
        each = iter(changed)
        found = []
        while batch := list(islice(each, CANDIDATES_PER_CALL)):
            found.append(clean_JS - self.measured(watched, torch.stack(batch)))
        return torch.cat(found)

    def without_each(self, watched: Watched, features_F: Int[Tensor, " F"]) -> Float[Tensor, "F J S"]:
        """The cut by ablating each of these features alone."""
        x_SPd, f_SPn, writes_nd, _ = self.lower
        return self.cuts(watched, (ablate(x_SPd, f_SPn, feature, writes_nd) for feature in features_F.tolist()))

    def without_sets(self, watched: Watched, sets_CSn: Bool[Tensor, "C S n"]) -> Float[Tensor, "C J S"]:
        """The cut by ablating together all features of a set, which may be another one in each context."""
        x_SPd, f_SPn, writes_nd, _ = self.lower
        return self.cuts(watched, (patch(x_SPd, -f_SPn * set_Sn[:, None], writes_nd) for set_Sn in sets_CSn))

    def attributions(self, watched: Watched, steps: int) -> Float[Tensor, "J S n"]:
        """The estimate of the cut by each feature, from gradients at `steps` points."""
        x_SPd, f_SPn, writes_nd, _ = self.lower
        found = []
        for j in range(len(watched.features_J)):
            one = Watched(*(field[j : j + 1] for field in watched))
            # Contexts do not see one another, so the gradient of the sum is that of each.
            gradient_SPd = integrated_gradient(
                lambda x_SPd, one=one: self.measured(one, x_SPd[None]).sum(), x_SPd, -f_SPn @ writes_nd, steps
            )
            found.append(indirect_effects(gradient_SPd, f_SPn, writes_nd).sum(1))
        return torch.stack(found)


class Effects(NamedTuple):
    """What ablating features of one layer does to watched features of the next; means over contexts."""

    watched: Watched
    lower_F: Int[Tensor, " F"]
    attribution_JF: Float[Tensor, "J F"]
    cut_JF: Float[Tensor, "J F"]
    kept_JF: Bool[Tensor, "J F"]
    """Which of them are in the circuit."""

    @property
    def children(self) -> Int[Tensor, " kept"]:
        """The features of the layer that are in the circuit, each once."""
        return self.lower_F[self.kept_JF.any(0)]

    @property
    def size_J(self) -> Float[Tensor, " J"]:
        """m where nothing is changed."""
        return self.watched.mean(self.watched.clean_JS.abs())


def grow(
    links: Sequence[Link], target: Watched, children: int, verified: int, steps: int, verified_each: int = 0
) -> list[Effects]:
    """The circuit below a target, from the last link down, as long as there is something to go on from.

    Each watched feature keeps the `children` features of the layer before that cut it most, and these are then watched
    themselves, in the same contexts and each where it is largest. A feature that is below several is followed once.

    Args:
        verified: so many features of a layer are ablated, those that come first in the attribution to any watched one.
        steps: points that gradients are taken at.
        verified_each: so many for each feature that is watched, where that is more.
    """
    found = []
    for link in reversed(links):
        most = max(verified, verified_each * len(target.features_J))
        candidates_F, attribution_JF = _candidates(link, target, most, steps)
        if not len(candidates_F):
            break
        cut_JF = target.mean(link.without_each(target, candidates_F)).T
        effects = Effects(target, candidates_F, attribution_JF, cut_JF, torch.zeros_like(cut_JF, dtype=torch.bool))
        effects = effects._replace(kept_JF=_largest(effects, children))
        found.append(effects)
        if not len(effects.children):
            break
        target = watch(link.lower, effects.children)
    return found


def active(f_SPn: Float[Tensor, "S P n"]) -> Bool[Tensor, "S n"]:
    """Which features are active in a context: somewhere not zero, and among the LARGEST in magnitude."""
    size_SPn = f_SPn.abs()
    least_SP1 = size_SPn.topk(min(LARGEST, size_SPn.shape[-1]), dim=-1).values[..., -1:]
    return ((size_SPn > 0) & (size_SPn >= least_SP1)).any(1)


def random_sets(
    active_Sn: Bool[Tensor, "S n"], size: int, draws: int, generator: torch.Generator
) -> Bool[Tensor, "C S n"]:
    """In each context, `size` of its active features, or all where there are fewer; `draws` times."""
    order_CSn = torch.rand(draws, *active_Sn.shape, generator=generator).to(active_Sn.device) * active_Sn
    chosen = order_CSn.topk(min(size, active_Sn.shape[-1]), dim=-1)
    return torch.zeros_like(order_CSn, dtype=torch.bool).scatter(-1, chosen.indices, chosen.values > 0)


def all_but(
    f_Bn: Float[Tensor, "*B n"], kept_n: Bool[Tensor, " n"], mean_n: Float[Tensor, " n"]
) -> Float[Tensor, "*B n"]:
    """The change of codes that puts every feature but those that are kept at its mean."""
    return torch.where(kept_n, 0, mean_n - f_Bn)


def _candidates(
    link: Link, watched: Watched, verified: int, steps: int
) -> tuple[Int[Tensor, " F"], Float[Tensor, "J F"]]:
    """Active features, those with the largest attribution in magnitude first, whichever feature it is to."""
    attribution_Jn = watched.mean(link.attributions(watched, steps).permute(2, 0, 1)).T
    active_n = active(link.lower.f_SPn).any(0)
    order_Jn = attribution_Jn.abs().masked_fill(~active_n, -1).argsort(dim=-1, descending=True, stable=True)
    best_rank_n = order_Jn.argsort(-1).amin(0)
    first_F = best_rank_n.argsort(stable=True)[: min(verified, int(active_n.sum()))]
    return first_F, attribution_Jn[:, first_F]


def _largest(effects: Effects, children: int) -> Bool[Tensor, "J F"]:
    """For each watched feature, the largest cuts that are cuts at all."""
    cut_JF = effects.cut_JF
    chosen = cut_JF.topk(min(children, cut_JF.shape[1]), dim=-1)
    enough = (chosen.values > 0) & (chosen.values >= LEAST_SHARE * effects.size_J[:, None])
    return torch.zeros_like(cut_JF, dtype=torch.bool).scatter(-1, chosen.indices, enough)
