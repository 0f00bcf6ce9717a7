"""Which features to change, and how few, so that a measure comes down (Cunningham et al. 2023, section 4).

    ranks     the place of each feature by its effect on the measure: the one that lowers it most is first
    fewest    the smallest number of first places whose change brings the measure down to a limit
    sweep     ever smaller sets: begin with all candidates; for each of rising thresholds τ visit those that are left in
              random order, and drop each that raises the measure by less than τ over what it is by then

Where one ranking serves all prompts there is one group, and where each prompt has its own, a prompt is a group.

Shapes: G groups, n features, K sizes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

GROUP = 8
"""Features that a sweep first tries to drop together."""


def ranks(effects_Gn: Float[Tensor, "*G n"], changed_Gn: Bool[Tensor, "*G n"]) -> Int[Tensor, "*G n"]:
    """Places from 0, the most negative effect first; what does not change at all comes last."""
    order_Gn = effects_Gn.masked_fill(~changed_Gn, torch.inf).argsort(dim=-1, stable=True)
    return order_Gn.argsort(dim=-1)


def doubling(most: int) -> list[int]:
    """0, 1, 2, 4, 8, …, and `most`."""
    return sorted({0, most, *(2**power for power in range(most.bit_length()))})


def fewest(
    measure: Callable[[Int[Tensor, " G"]], Float[Tensor, " G"]],
    sizes: Sequence[int],
    values_KG: Float[Tensor, "K G"],
    limit_G: Float[Tensor, " G"],
) -> Float[Tensor, " G"]:
    """The smallest size of each group with which the measure is at most the limit; inf where it never is.

    Between the first of the `sizes` that suffices and the one before it the size is found by bisection, which is
    exact where the measure does not rise again between the two.

    Args:
        measure: a size for each group to its value.
        values_KG: the measure at `sizes`.
    """
    sizes_K = torch.tensor(sizes, device=values_KG.device)
    enough_KG = values_KG <= limit_G
    reached_G, first_G = enough_KG.any(0), enough_KG.int().argmax(0)
    high_G, low_G = sizes_K[first_G], sizes_K[(first_G - 1).clamp(min=0)]
    while (open_G := high_G - low_G > 1).any():
        middle_G = (low_G + high_G) // 2
        enough_G = measure(middle_G) <= limit_G
        high_G = torch.where(open_G & enough_G, middle_G, high_G)
        low_G = torch.where(open_G & ~enough_G, middle_G, low_G)
    return high_G.to(values_KG.dtype).masked_fill(~reached_G, torch.inf)


class Accepted(NamedTuple):
    """What a sweep has left after a threshold."""

    threshold: float
    features: Int[Tensor, " f"]
    value: float


def sweep(
    measure: Callable[[Int[Tensor, " f"]], float],
    candidates: Int[Tensor, " f"],
    thresholds: Iterable[float],
    generator: torch.Generator,
) -> list[Accepted]:
    """The sets that rising thresholds leave.

    A group of features that together change the measure by less than τ goes in one step. Otherwise its features are
    tried one by one, as all are in the paper: those that lower the measure must not take others with them.
    """
    kept, value = candidates, measure(candidates)
    left = []
    for threshold in thresholds:
        order = torch.randperm(len(kept), generator=generator).to(kept.device)
        for group in kept[order].split(GROUP):
            fewer = _without(kept, group)
            together = measure(fewer)
            if abs(together - value) < threshold:
                kept, value = fewer, together
                continue
            for feature in group:
                fewer = _without(kept, feature)
                alone = measure(fewer)
                if alone < value + threshold:
                    kept, value = fewer, alone
        left.append(Accepted(threshold, kept, value))
    return left


def _without(features: Int[Tensor, " f"], dropped: Int[Tensor, "*g"]) -> Int[Tensor, " fewer"]:
    return features[~torch.isin(features, dropped)]
