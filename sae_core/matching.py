"""How alike the directions of two dictionaries are.

    MMCS(a, b) = mean over a's directions of the largest cosine with one of b's
    one-to-one: the pairs (i, π(i)) with the largest sum of cosines, π injective (the Hungarian method)

MMCS may pair many directions with one; the one-to-one matching may not, so it is what stability over seeds and
sizes is measured by: the paper's is the fraction of pairs above 0.9. Cosines are signed.

Shapes: d activation width, n and m features.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

MOST_COSINES = 1 << 28
"""Of a one-to-one matching, in float32: 1 GiB, of which scipy makes a float64 copy. 16,384 features with as many."""


def mmcs(a_nd: Float[Tensor, "n d"], b_md: Float[Tensor, "m d"]) -> float:
    """Mean max cosine similarity, **averaged over a's rows**: how well each of a's directions is represented
    in b.

    Signed cosines, rows normalised here. Not symmetric: the paper's own code averages over its second
    argument.
    """
    return nearest(a_nd, b_md).cosine_n.double().mean().item()


class Nearest(NamedTuple):
    """For each of a's directions, the one of b's that is closest."""

    b_n: Int[Tensor, "n"]
    cosine_n: Float[Tensor, "n"]


def nearest(a_nd: Float[Tensor, "n d"], b_md: Float[Tensor, "m d"]) -> Nearest:
    """Signed cosines, rows normalised here; several of a's directions may have the same one of b's.

    Raises ValueError where a side is empty.
    """
    if len(a_nd) == 0 or len(b_md) == 0:
        raise ValueError(f"MMCS of {len(a_nd)} with {len(b_md)} directions is undefined: neither side may be empty")
    a_nd, b_md = F.normalize(a_nd.detach(), dim=1), F.normalize(b_md.detach(), dim=1)
    cosines, indices = zip(*((part @ b_md.T).max(1) for part in a_nd.split(2048)), strict=True)
    return Nearest(torch.cat(indices), torch.cat(cosines))


def true_to_learned(true_nd: Float[Tensor, "n d"], learned_md: Float[Tensor, "m d"]) -> float:
    """Are the true features found? MMCS averaged over the true ones; blind to learned junk."""
    return mmcs(true_nd, learned_md)


def learned_to_true(
    learned_md: Float[Tensor, "m d"], true_nd: Float[Tensor, "n d"], alive_m: Bool[Tensor, "m"] | None = None
) -> float:
    """Are the learned features true? MMCS averaged over the learned ones, over those `alive` only when that
    is given: a dead feature keeps the direction that it was initialised with."""
    return mmcs(learned_md if alive_m is None else learned_md[alive_m], true_nd)


class Matching(NamedTuple):
    """Pairs of two dictionaries' features, none of which is in two pairs."""

    a_p: Int[Tensor, "p"]
    """The pairs' features in a, ascending."""

    b_p: Int[Tensor, "p"]
    """The pairs' features in b."""

    cosine_p: Float[Tensor, "p"]

    @property
    def mean(self) -> float:
        """Mean cosine of the pairs."""
        return self.cosine_p.double().mean().item()

    def fraction_above(self, cosine: float = 0.9) -> float:
        """Share of the pairs that are closer than this."""
        return (self.cosine_p > cosine).double().mean().item()


def one_to_one(a_nd: Float[Tensor, "n d"], b_md: Float[Tensor, "m d"]) -> Matching:
    """The pairing of a's directions with b's that has the largest sum of cosines, of as many pairs as the smaller
    side has directions.

    Keeps 12·n·m bytes and takes up to cubic time.

    Raises ValueError where a side is empty, or n·m exceeds MOST_COSINES.
    """
    if len(a_nd) == 0 or len(b_md) == 0:
        raise ValueError(f"no pairs: {len(a_nd)} with {len(b_md)} directions, and neither side may be empty")
    if len(a_nd) * len(b_md) > MOST_COSINES:
        raise ValueError(
            f"{len(a_nd)} with {len(b_md)} directions are too many to match one to one: at most {MOST_COSINES} "
            "cosines are kept. Match a subset of the features, or use mmcs"
        )
    from scipy.optimize import linear_sum_assignment  # more than a second, for processes that match nothing

    cosine_nm = (F.normalize(a_nd.detach(), dim=1) @ F.normalize(b_md.detach(), dim=1).T).cpu()
    a_p, b_p = (torch.from_numpy(side) for side in linear_sum_assignment(cosine_nm.numpy(), maximize=True))
    return Matching(a_p, b_p, cosine_nm[a_p, b_p])


def mutual_nearest(a_to_b: Nearest, b_to_a: Nearest) -> Matching:
    """The pairs each of whose sides is the other's nearest: for dictionaries too large to match one to one.

    Fewer pairs than `one_to_one` gives, and of the same features where two dictionaries are much alike.
    """
    a_n = torch.arange(len(a_to_b.b_n), device=a_to_b.b_n.device)
    a_p = a_n[b_to_a.b_n[a_to_b.b_n] == a_n]
    return Matching(a_p.cpu(), a_to_b.b_n[a_p].cpu(), a_to_b.cosine_n[a_p].cpu())
