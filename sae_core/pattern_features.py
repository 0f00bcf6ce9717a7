"""How well features tell where something is: which fire on the rows that match, and on no others.

A feature is counted at ten thresholds, shares s = 0, 0.1, … 0.9 of its largest activation:

    fires      rows with f > 0 and f ≥ s · max f
    hits       those of them that match
    precision  hits / fires         recall  hits / matching         F1  2 hits / (fires + matching)

    monosemanticity = precision at s = ½        density = fires / rows at s = 0

Codes may be negative (PCA, ICA): every feature counts as two, relu(f) and relu(−f). Those of the second sign never fire
where codes are not negative.

Shapes: B rows, d activation width, n features, L thresholds, 2 signs (+, −).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.dictionary import Dictionary

SHARES = tuple(tenths / 10 for tenths in range(10))
"""Of a feature's largest activation: the thresholds."""

HALF = SHARES.index(0.5)
SIGNS = (1, -1)
CODES_PER_BATCH = 1 << 22  # 16 MiB in float32; where none is zero, ten times that with their places

Batches = Callable[[], Iterable[tuple[Float[Tensor, "B n"], Bool[Tensor, " B"]]]]
"""Codes, and which of their rows match; called once for each pass."""


class PatternCounts(NamedTuple):
    """Counts of features over a sample, and the measures of the module's head; NaN where undefined."""

    rows: int
    matching: int
    peak: Float[Tensor, "*features"]
    """The largest activation."""
    fires: Int[Tensor, "L *features"]
    hits: Int[Tensor, "L *features"]

    @property
    def precision(self) -> Float[Tensor, "L *features"]:
        return self.hits.double() / self.fires

    @property
    def recall(self) -> Float[Tensor, "L *features"]:
        return self.hits.double() / self.matching

    @property
    def f1(self) -> Float[Tensor, "L *features"]:
        return 2 * self.hits.double() / (self.fires + self.matching)

    @property
    def monosemanticity(self) -> Float[Tensor, "*features"]:
        return self.precision[HALF]

    @property
    def density(self) -> Float[Tensor, "*features"]:
        return self.fires[0].double() / self.rows

    def of(self, *index: int) -> "PatternCounts":
        """Those of one feature."""
        at = (slice(None), *index)
        return PatternCounts(self.rows, self.matching, self.peak[index], self.fires[at], self.hits[at])


class Detector(NamedTuple):
    """A feature that tells where something is."""

    feature: int
    sign: int
    """−1 where it fires with negative codes."""
    level: int
    """Which of SHARES is its best threshold."""
    counts: PatternCounts
    """Its own, on the rows that it was found on."""

    @property
    def threshold(self) -> float:
        """The activation from which on it best tells, on the rows that it was found on."""
        return SHARES[self.level] * self.counts.peak.item()


def count(batches: Batches) -> PatternCounts:
    """Counts of all features with either sign, [2, n] each, in two passes over the codes."""
    rows, matching = 0, 0
    peaks: list[Tensor] = []
    for f_Bn, match_B in batches():
        rows, matching = rows + len(f_Bn), matching + int(match_B.sum())
        peaks.append(torch.stack([f_Bn.amax(0), -f_Bn.amin(0)]))
    peak_2n = torch.stack(peaks).amax(0).clamp_min(0)

    # Each activation that is not zero lies between two thresholds; what lies above a threshold is summed up from those.
    shape = (len(SHARES), *peak_2n.shape)
    between, matching_between = (torch.zeros(shape, dtype=torch.int64, device=peak_2n.device) for _ in range(2))
    for f_Bn, match_B in batches():
        row_E, feature_E = f_Bn.nonzero(as_tuple=True)
        value_E = f_Bn[row_E, feature_E]
        sign_E = (value_E < 0).long()
        level_E = (value_E.abs() / peak_2n[sign_E, feature_E] * len(SHARES)).long().clamp_max(len(SHARES) - 1)
        place_E = (level_E * 2 + sign_E) * shape[-1] + feature_E
        between += torch.bincount(place_E, minlength=between.numel()).view(shape)
        matching_between += torch.bincount(place_E[match_B[row_E]], minlength=between.numel()).view(shape)
    fires, hits = (counts.flip(0).cumsum(0).flip(0).cpu() for counts in (between, matching_between))
    return PatternCounts(rows, matching, peak_2n.cpu(), fires, hits)


def best(counts: PatternCounts, how_many: int) -> list[Detector]:
    """The features [2, n] with the largest F1, each at its best threshold, of those that fire on a row that matches."""
    f1_2n, level_2n = counts.f1.nan_to_num().max(0)
    order = f1_2n.flatten().argsort(descending=True, stable=True)[:how_many].tolist()
    places = [divmod(place, f1_2n.shape[1]) for place in order if f1_2n.flatten()[place] > 0]
    return [Detector(feature, SIGNS[at], int(level_2n[at, feature]), counts.of(at, feature)) for at, feature in places]


def find_features(
    dictionary: Dictionary, x_Bd: Float[Tensor, "B d"], match_B: Bool[Tensor, " B"], how_many: int = 1
) -> list[Detector]:
    """The features of a dictionary that best tell which rows match, the best one first.

    Fewer than `how_many`, or none, where fewer fire on a row that matches.
    """
    return best(count(lambda: encoded(dictionary, x_Bd, match_B)), how_many) if match_B.any() else []


@torch.no_grad()
def encoded(
    dictionary: Dictionary, x_Bd: Float[Tensor, "B d"], match_B: Bool[Tensor, " B"]
) -> Iterable[tuple[Float[Tensor, "B n"], Bool[Tensor, " B"]]]:
    """Codes batch by batch, so that those of all rows are never there at once."""
    weight = dictionary.weight
    per_batch = max(1, CODES_PER_BATCH // dictionary.n_features)
    for x, match in zip(x_Bd.split(per_batch), match_B.split(per_batch), strict=True):
        yield dictionary.encode(x.to(weight)), match.to(weight.device)


def activations(dictionary: Dictionary, x_Bd: Float[Tensor, "B d"], feature: int, sign: int = 1) -> Float[Tensor, " B"]:
    """What one feature has on each row, relu(sign · f), on the CPU."""
    nothing_B = torch.zeros(len(x_Bd), dtype=torch.bool)
    return torch.cat([(sign * f_Bn[:, feature]).relu().cpu() for f_Bn, _ in encoded(dictionary, x_Bd, nothing_B)])


def count_one(f_B: Float[Tensor, " B"], match_B: Bool[Tensor, " B"]) -> PatternCounts:
    """Counts of a single feature, from its activations."""
    return count(lambda: [(f_B[:, None], match_B)]).of(0, 0)


def f1_above(threshold: float, f_B: Float[Tensor, " B"], match_B: Bool[Tensor, " B"]) -> float:
    """F1 where a feature fires with f > 0 and f ≥ a threshold that other rows have set; some rows match."""
    fires_B = (f_B > 0) & (f_B >= threshold)
    return 2 * int((fires_B & match_B).sum()) / int(fires_B.sum() + match_B.sum())
