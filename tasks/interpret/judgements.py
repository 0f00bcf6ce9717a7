"""Yes or no, of one text after another, or which of them; and how often it was right."""

from collections.abc import Sequence
from typing import NamedTuple


class Judgement(NamedTuple):
    """What is true of a text, and what a model said of it."""

    true: bool
    answered: bool | None
    probability: float | None
    """Of yes, where the server gives it."""


class Judged(NamedTuple):
    """The scores of some judgements; null where `reason` says why."""

    balanced_accuracy: float | None
    """Mean of the shares of yes and of no that were answered rightly: 0.5 is chance."""
    f1: float | None
    auc: float | None
    """Probability that a yes was given a larger probability than a no; null without probabilities."""
    answered: int
    """How many of the texts."""
    asked: int
    reason: str | None


class Found(NamedTuple):
    """The share of intruders found, of the trials that were answered; null where `reason` says why."""

    share: float | None
    answered: int
    asked: int
    reason: str | None


def score(judgements: Sequence[Judgement], reason: str | None) -> Judged:
    """Scores over what was answered. `reason` is why something was not."""
    said = [judgement for judgement in judgements if judgement.answered is not None]
    yes = [judgement.answered for judgement in said if judgement.true]
    no = [judgement.answered for judgement in said if not judgement.true]
    if not yes or not no:
        return Judged(None, None, None, len(said), len(judgements), reason or "there are not texts of both kinds")
    right, wrong = sum(map(bool, yes)), sum(map(bool, no))
    balanced = (right / len(yes) + 1 - wrong / len(no)) / 2
    f1 = 2 * right / (right + wrong + len(yes))
    return Judged(balanced, f1, _auc(said), len(said), len(judgements), reason)


def _auc(judgements: Sequence[Judgement]) -> float | None:
    """Mann and Whitney's statistic; ties count a half."""
    yes = [j.probability for j in judgements if j.true and j.probability is not None]
    no = [j.probability for j in judgements if not j.true and j.probability is not None]
    if not yes or not no:
        return None
    return sum((a > b) + (a == b) / 2 for a in yes for b in no) / (len(yes) * len(no))
