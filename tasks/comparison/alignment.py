"""Two dictionaries feature by feature: which are kept, which changed, which were lost and gained.

A feature is told by its cosine with the nearest direction of the other dictionary:

    kept       at least 0.9: what Cunningham et al. 2023 and later work count as the same feature
    lost       less than 0.5, of A; gained: the same of B. Of its squared length less than a quarter (0.5²) lies along
               any feature of the other dictionary. Chance reaches 0.14 with 2,304 random directions of width 576
    changed    in between: turned, split or merged

Features that never fire on the held-out text are counted apart: they keep the direction that they began with, and so
are lost and gained by chance.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sae_core import matching
from sae_core.matching import Matching, Nearest, mutual_nearest, nearest, one_to_one

KEPT = 0.9
LOST = 0.5

ONE_TO_ONE, MUTUAL = "one to one (Hungarian)", "mutual nearest"
STATES = ("kept", "changed", "lost", "gained", "never fires")

BINS = 40
"""Of the histogram, from -1 to 1: 0.05 wide, so that both thresholds are edges."""


class Alignment(NamedTuple):
    """How the features of two dictionaries lie to each other."""

    a: Nearest
    """For each feature of A, the nearest of B."""
    b: Nearest
    pairs: Matching
    how: str
    """How the pairs were found."""

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers of a pair of dictionaries as a whole."""
        n, m = len(self.a.cosine_n), len(self.b.cosine_n)
        return {
            "features_a": n,
            "features_b": m,
            "mmcs_a_in_b": self.a.cosine_n.double().mean().item(),
            "mmcs_b_in_a": self.b.cosine_n.double().mean().item(),
            "pairing": self.how,
            "pairs": len(self.pairs.cosine_p),
            "pairs_mean_cosine": self.pairs.mean,
            "pairs_at_least_0.9": (self.pairs.cosine_p >= KEPT).double().mean().item(),
        }


def align(a_nd: Float[Tensor, "n d"], b_md: Float[Tensor, "m d"]) -> Alignment:
    """Nearest directions both ways, and pairs of which no feature is in two."""
    there, back = nearest(a_nd, b_md), nearest(b_md, a_nd)
    if len(a_nd) * len(b_md) > matching.MOST_COSINES:
        return Alignment(there, back, mutual_nearest(there, back), MUTUAL)
    return Alignment(there, back, one_to_one(a_nd, b_md), ONE_TO_ONE)


def chance(m: int, d: int) -> float:
    """The largest cosine of a direction with m random ones of width d, in the median."""
    from scipy import special  # a second, for those who need it

    if d == 1:
        return 1.0
    # Of one random direction the cosine's square is Beta(1/2, (d − 1)/2), on either side of 0.
    quantile = 0.5 ** (1 / m)
    return math.sqrt(special.betaincinv(0.5, (d - 1) / 2, 2 * quantile - 1))


def states(cosines: Sequence[float], densities: Sequence[float | None], gone: str) -> list[str]:
    """The state of each feature; `gone` is lost or gained. Densities may be unknown, and none then never fires."""
    known = densities or [None] * len(cosines)
    return [
        "never fires" if density == 0 else "kept" if cosine >= KEPT else gone if cosine < LOST else "changed"
        for cosine, density in zip(cosines, known, strict=True)
    ]


def counts(side: Sequence[str]) -> dict[str, int]:
    """How many features are in each state that a side can have."""
    found = Counter(side)
    return {state: found[state] for state in STATES if state in found}


def rows(number: int, found: Alignment, density_a: Sequence[Any], density_b: Sequence[Any]) -> list[dict[str, Any]]:
    """What matches.parquet says of the pair of dictionaries `number`: a row for each feature of A, then of B."""
    matched = [column.tolist() for column in found.pairs]
    one = {a: (b, cosine) for a, b, cosine in zip(*matched, strict=True)}
    other = {b: (a, cosine) for a, b, cosine in zip(*matched, strict=True)}
    sides = (("A", found.a, density_a, "lost", one), ("B", found.b, density_b, "gained", other))
    made = []
    for run, side, density, gone, partners in sides:
        cosines = side.cosine_n.tolist()
        for feature, state in enumerate(states(cosines, density, gone)):
            partner, cosine = partners.get(feature, (None, None))
            made.append(
                {
                    "pair": number,
                    "run": run,
                    "feature": feature,
                    "density": density[feature] if density else None,
                    "nearest": int(side.b_n[feature]),
                    "cosine": cosines[feature],
                    "state": state,
                    "partner": partner,
                    "partner_cosine": cosine,
                }
            )
    return made


def histogram(cosines: Sequence[float]) -> list[int]:
    """How many lie in each of BINS bins from -1 to 1."""
    # Rounded, so that float32's idea of 0.9 lies on the right side of the edge.
    index = np.floor(np.round((np.asarray(cosines, dtype=np.float64) + 1) * BINS / 2, 5)).astype(int)
    return np.bincount(np.clip(index, 0, BINS - 1), minlength=BINS).tolist()
